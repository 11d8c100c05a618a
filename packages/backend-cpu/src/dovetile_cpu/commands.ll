; What the driver executes, and what Python calls. Continues worker_pool.ll, which explains it all.

; --- commands -------------------------------------------------------------------------------

define internal void @signal(ptr %address, i64 %value) nounwind {
  store atomic i64 %value, ptr %address seq_cst, align 8
  %waiters.address = getelementptr i8, ptr %address, i64 8
  %waiters = load atomic i32, ptr %waiters.address seq_cst, align 4
  %any = icmp ne i32 %waiters, 0
  br i1 %any, label %wake_waiters, label %done
wake_waiters:
  call void @wake(ptr %address, i32 2147483647)
  br label %done
done:
  ret void
}

; True once the word is at least the value; false when the deadline passed or the pool stops.
define internal i1 @wait_signal(ptr %control, ptr %address, i64 %value, i64 %deadline) nounwind {
entry:
  %stopping = getelementptr %Control, ptr %control, i32 0, i32 10
  %waiters = getelementptr i8, ptr %address, i64 8
  br label %look
look:
  %turn = phi i32 [ 0, %entry ], [ %turn.next, %again ], [ %turn.next, %slept ]
  %turn.next = add i32 %turn, 1
  %seen = load atomic i64, ptr %address seq_cst, align 8
  %reached = icmp uge i64 %seen, %value
  br i1 %reached, label %yes, label %check_stop
check_stop:
  %stop = load atomic i32, ptr %stopping seq_cst, align 4
  %stops = icmp ne i32 %stop, 0
  br i1 %stops, label %no, label %check_turn
check_turn:
  %patient = icmp ult i32 %turn, 1000
  br i1 %patient, label %again, label %check_deadline
again:
  call void @pause()
  br label %look
check_deadline:
  %limited = icmp sge i64 %deadline, 0
  br i1 %limited, label %read_clock, label %sleep
read_clock:
  %time = call i64 @now()
  %late = icmp sgt i64 %time, %deadline
  br i1 %late, label %no, label %sleep
sleep:
  ; At most a millisecond at a time: another kind of device does not wake us when it signals.
  %ignored.1 = atomicrmw add ptr %waiters, i32 1 seq_cst
  %seen.again = load atomic i64, ptr %address seq_cst, align 8
  %reached.now = icmp uge i64 %seen.again, %value
  br i1 %reached.now, label %slept, label %do_sleep
do_sleep:
  %low = trunc i64 %seen.again to i32
  call void @sleep_on(ptr %address, i32 %low, i64 1000000)
  br label %slept
slept:
  %ignored.2 = atomicrmw sub ptr %waiters, i32 1 seq_cst
  br label %look
yes:
  ret i1 true
no:
  ret i1 false
}

; Execute one command other than CALL. False: it could not complete before the deadline.
define internal i1 @execute(ptr %control, ptr %words, i64 %header, i64 %deadline) nounwind {
entry:
  %operation = and i64 %header, 255
  %count = lshr i64 %header, 32
  %first.address = getelementptr i64, ptr %words, i64 1
  %second.address = getelementptr i64, ptr %words, i64 2
  switch i64 %operation, label %done [
    i64 1, label %launch
    i64 2, label %signal
    i64 3, label %wait
    i64 4, label %timestamp
    i64 5, label %patch
  ]
launch:
  ; After a fault launches are skipped until Python has raised it; signals still go out.
  %fault.address = getelementptr %Control, ptr %control, i32 0, i32 26
  %fault = load i32, ptr %fault.address
  %faulted = icmp ne i32 %fault, 0
  br i1 %faulted, label %done, label %launch_go
launch_go:
  %function = load ptr, ptr %first.address
  %buffer_count = load i64, ptr %second.address
  %buffers = getelementptr i64, ptr %words, i64 3
  %scalars = getelementptr i64, ptr %buffers, i64 %buffer_count
  %single = icmp eq i64 %count, 1
  br i1 %single, label %launch_single, label %launch_many
launch_single:
  call void @run_part(ptr %control, i64 0, i64 0, ptr %function, ptr %buffers, ptr %scalars)
  br label %done
launch_many:
  %helpers.address = getelementptr %Control, ptr %control, i32 0, i32 29
  %helpers = load i32, ptr %helpers.address
  %alone = icmp eq i32 %helpers, 0
  br i1 %alone, label %launch_serial, label %launch_parallel
launch_serial:
  %part = phi i64 [ 0, %launch_many ], [ %part.next, %launch_serial ]
  call void @run_part(ptr %control, i64 0, i64 %part, ptr %function, ptr %buffers, ptr %scalars)
  %part.next = add i64 %part, 1
  %more_parts = icmp ult i64 %part.next, %count
  br i1 %more_parts, label %launch_serial, label %done
launch_parallel:
  call void @launch_shared(ptr %control, i64 %count, ptr %function, ptr %buffers, ptr %scalars)
  br label %done
signal:
  %signal.address = load ptr, ptr %first.address
  %signal.value = load i64, ptr %second.address
  call void @signal(ptr %signal.address, i64 %signal.value)
  br label %done
wait:
  %wait.address = load ptr, ptr %first.address
  %wait.value = load i64, ptr %second.address
  %reached = call i1 @wait_signal(ptr %control, ptr %wait.address, i64 %wait.value, i64 %deadline)
  ret i1 %reached
timestamp:
  %timestamp.address = load ptr, ptr %first.address
  %time = call i64 @now()
  store atomic i64 %time, ptr %timestamp.address seq_cst, align 8
  br label %done
patch:
  %pair = phi i64 [ 0, %entry ], [ %pair.next, %patch_one ]
  %more_pairs = icmp ult i64 %pair, %count
  br i1 %more_pairs, label %patch_one, label %done
patch_one:
  %pair.offset = shl i64 %pair, 1
  %pair.address = getelementptr i64, ptr %first.address, i64 %pair.offset
  %target = load ptr, ptr %pair.address
  %value.address = getelementptr i64, ptr %pair.address, i64 1
  %value = load i64, ptr %value.address
  store i64 %value, ptr %target
  %pair.next = add i64 %pair, 1
  br label %patch
done:
  ret i1 true
}

; Execute commands up to ring position `target`. Only the holder of `driving` calls this. False:
; the deadline (nanoseconds of the monotonic clock; negative = none) came first. The place is kept
; in `head` and `list_position`, so that any thread can go on from there.
define internal i1 @drive(ptr %control, i64 %target, i64 %deadline) nounwind {
entry:
  %head = getelementptr %Control, ptr %control, i32 0, i32 0
  %list_position = getelementptr %Control, ptr %control, i32 0, i32 1
  %list_end = getelementptr %Control, ptr %control, i32 0, i32 2
  %waiters = getelementptr %Control, ptr %control, i32 0, i32 3
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 4
  %ring.address = getelementptr %Control, ptr %control, i32 0, i32 30
  %ring = load ptr, ptr %ring.address
  %mask.address = getelementptr %Control, ptr %control, i32 0, i32 31
  %mask = load i64, ptr %mask.address
  %limited = icmp sge i64 %deadline, 0
  br label %next
next:
  %position = load i64, ptr %list_position
  %head.now = load i64, ptr %head
  %slot = and i64 %head.now, %mask
  %ring_words = getelementptr i64, ptr %ring, i64 %slot
  %in_list = icmp ne i64 %position, 0
  br i1 %in_list, label %check_list_end, label %check_target
check_target:
  %reached = icmp uge i64 %head.now, %target
  br i1 %reached, label %yes, label %check_deadline
check_list_end:
  %end = load i64, ptr %list_end
  %list_over = icmp uge i64 %position, %end
  br i1 %list_over, label %leave_list, label %check_deadline
leave_list:
  store i64 0, ptr %list_position
  %call_header = load i64, ptr %ring_words
  br label %advance_head
check_deadline:
  br i1 %limited, label %read_clock, label %fetch
read_clock:
  %time = call i64 @now()
  %late = icmp sgt i64 %time, %deadline
  br i1 %late, label %no, label %fetch
fetch:
  %list_words = inttoptr i64 %position to ptr
  %words = select i1 %in_list, ptr %list_words, ptr %ring_words
  %header = load i64, ptr %words
  %operation = and i64 %header, 255
  %is_call = icmp eq i64 %operation, 6
  br i1 %is_call, label %enter_list, label %do
enter_list:
  %called.address = getelementptr i64, ptr %words, i64 1
  %called = load i64, ptr %called.address
  %called_size.address = getelementptr i64, ptr %words, i64 2
  %called_size = load i64, ptr %called_size.address
  %called_bytes = shl i64 %called_size, 3
  %called_end = add i64 %called, %called_bytes
  store i64 %called_end, ptr %list_end
  store i64 %called, ptr %list_position
  br label %next
do:
  %completed = call i1 @execute(ptr %control, ptr %words, i64 %header, i64 %deadline)
  br i1 %completed, label %advance, label %no
advance:
  br i1 %in_list, label %advance_list, label %advance_head
advance_list:
  %size_bytes.shifted = lshr i64 %header, 5
  %size_bytes = and i64 %size_bytes.shifted, 134217720
  %position.next = add i64 %position, %size_bytes
  store i64 %position.next, ptr %list_position
  br label %next
advance_head:
  %done_header = phi i64 [ %header, %advance ], [ %call_header, %leave_list ]
  %size.shifted = lshr i64 %done_header, 8
  %size = and i64 %size.shifted, 16777215
  %head.next = add i64 %head.now, %size
  store atomic i64 %head.next, ptr %head seq_cst, align 8
  %waiting = load atomic i32, ptr %waiters seq_cst, align 4
  %anybody = icmp ne i32 %waiting, 0
  br i1 %anybody, label %tell, label %next
tell:
  %ignored = atomicrmw add ptr %sequence, i32 1 seq_cst
  call void @wake(ptr %sequence, i32 2147483647)
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; --- called from Python ---------------------------------------------------------------------

; Have the background thread execute commands up to `position`.
define void @dovetile_start(ptr %control, i64 %position) nounwind {
  %requested.address = getelementptr %Control, ptr %control, i32 0, i32 6
  store atomic i64 %position, ptr %requested.address seq_cst, align 8
  call void @wake_background(ptr %control)
  ret void
}

; Wait until commands are complete up to `target`, executing them here if nobody else does.
; Returns 0 when they are, 1 when `timeout` nanoseconds passed first.
define i32 @dovetile_wait(ptr %control, i64 %target, i64 %timeout) nounwind {
entry:
  %head.address = getelementptr %Control, ptr %control, i32 0, i32 0
  %waiters = getelementptr %Control, ptr %control, i32 0, i32 3
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 4
  %driving = getelementptr %Control, ptr %control, i32 0, i32 7
  %head.first = load atomic i64, ptr %head.address seq_cst, align 8
  %nothing = icmp uge i64 %head.first, %target
  br i1 %nothing, label %yes, label %begin
begin:
  %start = call i64 @now()
  %deadline = add i64 %start, %timeout
  br label %look
look:
  %turn = phi i32 [ 0, %begin ], [ %turn.next, %again ], [ 0, %slept ], [ 0, %finished ]
  %turn.next = add i32 %turn, 1
  %head = load atomic i64, ptr %head.address seq_cst, align 8
  %reached = icmp uge i64 %head, %target
  br i1 %reached, label %yes, label %try
try:
  %won = call i1 @start_driving(ptr %control)
  br i1 %won, label %drive, label %busy
drive:
  %in_time = call i1 @drive(ptr %control, i64 %target, i64 %deadline)
  call void @stop_driving(ptr %control)
  br i1 %in_time, label %finished, label %no
finished:
  br label %look
busy:
  %patient = icmp ult i32 %turn, 200
  br i1 %patient, label %again, label %sleep
again:
  call void @pause()
  br label %look
sleep:
  %time = call i64 @now()
  %remaining = sub i64 %deadline, %time
  %late = icmp sle i64 %remaining, 0
  br i1 %late, label %no, label %prepare
prepare:
  %seen = load atomic i32, ptr %sequence seq_cst, align 4
  %ignored.1 = atomicrmw add ptr %waiters, i32 1 seq_cst
  %head.again = load atomic i64, ptr %head.address seq_cst, align 8
  %reached.now = icmp uge i64 %head.again, %target
  %driven = load atomic i32, ptr %driving seq_cst, align 4
  %free = icmp eq i32 %driven, 0
  %stay_awake = or i1 %reached.now, %free
  br i1 %stay_awake, label %slept, label %do_sleep
do_sleep:
  call void @sleep_on(ptr %sequence, i32 %seen, i64 %remaining)
  br label %slept
slept:
  %ignored.2 = atomicrmw sub ptr %waiters, i32 1 seq_cst
  br label %look
yes:
  ret i32 0
no:
  ret i32 1
}

define void @dovetile_signal(ptr %address, i64 %value) nounwind {
  call void @signal(ptr %address, i64 %value)
  ret void
}

define i32 @dovetile_wait_signal(ptr %control, ptr %address, i64 %value, i64 %timeout) nounwind {
  %start = call i64 @now()
  %deadline = add i64 %start, %timeout
  %reached = call i1 @wait_signal(ptr %control, ptr %address, i64 %value, i64 %deadline)
  %missed = xor i1 %reached, true
  %result = zext i1 %missed to i32
  ret i32 %result
}

define void @dovetile_stop(ptr %control) nounwind {
  %stopping = getelementptr %Control, ptr %control, i32 0, i32 10
  store atomic i32 1, ptr %stopping seq_cst, align 4
  %background = getelementptr %Control, ptr %control, i32 0, i32 9
  %ignored.1 = atomicrmw add ptr %background, i32 1 seq_cst
  call void @wake(ptr %background, i32 2147483647)
  %helpers = getelementptr %Control, ptr %control, i32 0, i32 23
  %ignored.2 = atomicrmw add ptr %helpers, i32 1 seq_cst
  call void @wake(ptr %helpers, i32 2147483647)
  ret void
}

; A copy is a launch of this kernel: buffers (destination, source), scalars (bytes, parts).
define i32 @dovetile_copy(ptr %buffers, ptr %scalars, i64 %part, ptr %scratch) nounwind {
  %destination = load ptr, ptr %buffers
  %source.address = getelementptr i64, ptr %buffers, i64 1
  %source = load ptr, ptr %source.address
  %bytes = load i64, ptr %scalars
  %parts.address = getelementptr i64, ptr %scalars, i64 1
  %parts = load i64, ptr %parts.address
  %share = udiv i64 %bytes, %parts
  %rounded = add i64 %share, 64
  %chunk = and i64 %rounded, -64
  %begin.whole = mul i64 %chunk, %part
  %begin.past = icmp ugt i64 %begin.whole, %bytes
  %begin = select i1 %begin.past, i64 %bytes, i64 %begin.whole
  %end.whole = add i64 %begin, %chunk
  %end.past = icmp ugt i64 %end.whole, %bytes
  %end = select i1 %end.past, i64 %bytes, i64 %end.whole
  %length = sub i64 %end, %begin
  %to = getelementptr i8, ptr %destination, i64 %begin
  %from = getelementptr i8, ptr %source, i64 %begin
  %ignored = call ptr @memcpy(ptr %to, ptr %from, i64 %length)
  ret i32 0
}
