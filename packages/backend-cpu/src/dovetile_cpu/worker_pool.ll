; The CPU's command processor and worker pool.
;
; Python writes commands, as 64-bit words, into a ring. One thread at a time, the driver (the
; holder of `driving`), executes them in order. The driver is either the background thread, up to
; the position that was requested, or a Python thread that waits for a result: who waits works.
; A launch of several parts is shared with the helper threads through the `unclaimed` counter.
;
; A command starts with a header word: bits 0..7 operation, 8..31 size in words, 32..63 a count.
;   0 SKIP       unused words up to the ring's end
;   1 LAUNCH     count = parts; function, number of buffers, buffers..., scalars...
;   2 SIGNAL     address, value: store the value, wake who waits for it
;   3 WAIT       address, value: wait until the word there is at least the value
;   4 TIMESTAMP  address: store the monotonic clock, in nanoseconds
;   5 PATCH      count = number of (address, value) pairs of words to store
;   6 CALL       address, size in words: execute a captured list there
;
; Placeholders filled by native.py: the clock's number, and futex calls or a portable fallback.

%Control = type {
  i64,         ;  0 head: ring position up to which commands are complete (counted in words)
  i64,         ;  1 list_position: address of the next word in the captured list; 0 = not in a list
  i64,         ;  2 list_end
  i32,         ;  3 head_waiters
  i32,         ;  4 head_sequence
  [96 x i8],
  i64,         ;  6 requested: position up to which the background thread is asked to run
  i32,         ;  7 driving: 1 while some thread executes commands
  i32,         ;  8 background_sleeping
  i32,         ;  9 background_sequence
  i32,         ; 10 stopping
  [104 x i8],
  i32,         ; 12 unclaimed: parts of the current launch that nobody has taken yet
  [124 x i8],
  i32,         ; 14 unfinished: parts of the current launch that are not complete
  i32,         ; 15 driver_sleeping
  [120 x i8],
  ptr,         ; 17 function: of the current launch
  ptr,         ; 18 buffers
  ptr,         ; 19 scalars
  i64,         ; 20 parts
  [96 x i8],
  i32,         ; 22 sleeping_helpers
  i32,         ; 23 helper_sequence
  [120 x i8],
  i64,         ; 25 fault_function: the first kernel that returned a non-zero status
  i32,         ; 26 fault_status
  i32,         ; 27 threads_alive
  i32,         ; 28 next_worker
  i32,         ; 29 helpers: how many helper threads run
  ptr,         ; 30 ring
  i64,         ; 31 ring_mask: ring size in words, less one (a power of two)
  ptr,         ; 32 scratch
  i64          ; 33 scratch_stride: bytes of scratch per worker
}

declare i32 @clock_gettime(i32, ptr)
declare ptr @memcpy(ptr, ptr, i64)
@FUTEX_DECLARATIONS@

; --- small pieces ---------------------------------------------------------------------------

define internal i64 @now() nounwind {
  %time = alloca [2 x i64]
  %ignored = call i32 @clock_gettime(i32 @CLOCK@, ptr %time)
  %seconds = load i64, ptr %time
  %rest.address = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %rest.address
  %whole = mul i64 %seconds, 1000000000
  %result = add i64 %whole, %rest
  ret i64 %result
}

define internal void @pause() alwaysinline nounwind {
  @PAUSE@
  ret void
}

; Sleep while the word is `expected`, at most `timeout` nanoseconds; may return early.
define internal void @sleep_on(ptr %word, i32 %expected, i64 %timeout) nounwind {
@FUTEX_WAIT@
  ret void
}

define internal void @wake(ptr %word, i32 %count) nounwind {
@FUTEX_WAKE@
  ret void
}

define internal void @record_fault(ptr %control, i32 %status, ptr %function) noinline nounwind {
  %status.address = getelementptr %Control, ptr %control, i32 0, i32 26
  %exchange = cmpxchg ptr %status.address, i32 0, i32 %status seq_cst seq_cst
  %first = extractvalue { i32, i1 } %exchange, 1
  br i1 %first, label %record, label %done
record:
  %function.address = getelementptr %Control, ptr %control, i32 0, i32 25
  store ptr %function, ptr %function.address
  br label %done
done:
  ret void
}

define internal void @run_part(ptr %control, i64 %worker, i64 %part, ptr %function, ptr %buffers,
                               ptr %scalars) nounwind {
  %scratch.address = getelementptr %Control, ptr %control, i32 0, i32 32
  %scratch = load ptr, ptr %scratch.address
  %stride.address = getelementptr %Control, ptr %control, i32 0, i32 33
  %stride = load i64, ptr %stride.address
  %offset = mul i64 %stride, %worker
  %mine = getelementptr i8, ptr %scratch, i64 %offset
  %status = call i32 %function(ptr %buffers, ptr %scalars, i64 %part, ptr %mine)
  %bad = icmp ne i32 %status, 0
  br i1 %bad, label %fault, label %done
fault:
  call void @record_fault(ptr %control, i32 %status, ptr %function)
  br label %done
done:
  ret void
}

; --- a launch of several parts --------------------------------------------------------------

; Take parts of the current launch until none is left. The counter alone makes a claim valid: the
; driver changes the launch only after every claimed part is finished.
define internal void @claim_parts(ptr %control, i64 %worker) nounwind {
entry:
  %unclaimed = getelementptr %Control, ptr %control, i32 0, i32 12
  %unfinished = getelementptr %Control, ptr %control, i32 0, i32 14
  %driver_sleeping = getelementptr %Control, ptr %control, i32 0, i32 15
  %function.address = getelementptr %Control, ptr %control, i32 0, i32 17
  %buffers.address = getelementptr %Control, ptr %control, i32 0, i32 18
  %scalars.address = getelementptr %Control, ptr %control, i32 0, i32 19
  %parts.address = getelementptr %Control, ptr %control, i32 0, i32 20
  br label %look
look:
  %left = load atomic i32, ptr %unclaimed seq_cst, align 4
  %none = icmp eq i32 %left, 0
  br i1 %none, label %done, label %try
try:
  %less = sub i32 %left, 1
  %exchange = cmpxchg ptr %unclaimed, i32 %left, i32 %less seq_cst seq_cst
  %claimed = extractvalue { i32, i1 } %exchange, 1
  br i1 %claimed, label %run, label %look
run:
  %function = load ptr, ptr %function.address
  %buffers = load ptr, ptr %buffers.address
  %scalars = load ptr, ptr %scalars.address
  %parts = load i64, ptr %parts.address
  %left.wide = zext i32 %left to i64
  %part = sub i64 %parts, %left.wide
  call void @run_part(ptr %control, i64 %worker, i64 %part, ptr %function, ptr %buffers,
                      ptr %scalars)
  %before = atomicrmw sub ptr %unfinished, i32 1 seq_cst
  %last = icmp eq i32 %before, 1
  br i1 %last, label %finished, label %look
finished:
  %asleep = load atomic i32, ptr %driver_sleeping seq_cst, align 4
  %wanted = icmp ne i32 %asleep, 0
  br i1 %wanted, label %wake_driver, label %done
wake_driver:
  call void @wake(ptr %unfinished, i32 1)
  br label %done
done:
  ret void
}

define internal void @launch_shared(ptr %control, i64 %parts, ptr %function, ptr %buffers,
                                    ptr %scalars) noinline nounwind {
entry:
  %unclaimed = getelementptr %Control, ptr %control, i32 0, i32 12
  %unfinished = getelementptr %Control, ptr %control, i32 0, i32 14
  %driver_sleeping = getelementptr %Control, ptr %control, i32 0, i32 15
  %function.address = getelementptr %Control, ptr %control, i32 0, i32 17
  %buffers.address = getelementptr %Control, ptr %control, i32 0, i32 18
  %scalars.address = getelementptr %Control, ptr %control, i32 0, i32 19
  %parts.address = getelementptr %Control, ptr %control, i32 0, i32 20
  %sleeping.address = getelementptr %Control, ptr %control, i32 0, i32 22
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 23
  store ptr %function, ptr %function.address
  store ptr %buffers, ptr %buffers.address
  store ptr %scalars, ptr %scalars.address
  store i64 %parts, ptr %parts.address
  %count = trunc i64 %parts to i32
  store atomic i32 %count, ptr %unfinished seq_cst, align 4
  store atomic i32 %count, ptr %unclaimed seq_cst, align 4
  %sleeping = load atomic i32, ptr %sleeping.address seq_cst, align 4
  %any = icmp ne i32 %sleeping, 0
  br i1 %any, label %wake_helpers, label %work
wake_helpers:
  %ignored = atomicrmw add ptr %sequence, i32 1 seq_cst
  %others = sub i32 %count, 1
  call void @wake(ptr %sequence, i32 %others)
  br label %work
work:
  call void @claim_parts(ptr %control, i64 0)
  br label %spin
spin:
  %turn = phi i32 [ 0, %work ], [ %turn.next, %again ]
  %left = load atomic i32, ptr %unfinished seq_cst, align 4
  %complete = icmp eq i32 %left, 0
  br i1 %complete, label %done, label %unfinished_yet
unfinished_yet:
  %turn.next = add i32 %turn, 1
  %patient = icmp ult i32 %turn, 4000
  br i1 %patient, label %again, label %sleep
again:
  call void @pause()
  br label %spin
sleep:
  ; A helper was interrupted in the middle of its part: leave it the processor.
  store atomic i32 1, ptr %driver_sleeping seq_cst, align 4
  %still = load atomic i32, ptr %unfinished seq_cst, align 4
  %over = icmp eq i32 %still, 0
  br i1 %over, label %awake, label %do_sleep
do_sleep:
  call void @sleep_on(ptr %unfinished, i32 %still, i64 1000000)
  br label %sleep
awake:
  store atomic i32 0, ptr %driver_sleeping seq_cst, align 4
  br label %done
done:
  ret void
}

; --- threads ------------------------------------------------------------------------------

define internal i1 @start_driving(ptr %control) nounwind {
  %driving = getelementptr %Control, ptr %control, i32 0, i32 7
  %exchange = cmpxchg ptr %driving, i32 0, i32 1 seq_cst seq_cst
  %won = extractvalue { i32, i1 } %exchange, 1
  ret i1 %won
}

define internal void @wake_background(ptr %control) nounwind {
  %sleeping.address = getelementptr %Control, ptr %control, i32 0, i32 8
  %sleeping = load atomic i32, ptr %sleeping.address seq_cst, align 4
  %asleep = icmp ne i32 %sleeping, 0
  br i1 %asleep, label %do_wake, label %done
do_wake:
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 9
  %ignored = atomicrmw add ptr %sequence, i32 1 seq_cst
  call void @wake(ptr %sequence, i32 1)
  br label %done
done:
  ret void
}

; Give up the driver's place, and wake whoever may now want it.
define internal void @stop_driving(ptr %control) nounwind {
entry:
  %driving = getelementptr %Control, ptr %control, i32 0, i32 7
  store atomic i32 0, ptr %driving seq_cst, align 4
  %waiters = getelementptr %Control, ptr %control, i32 0, i32 3
  %waiting = load atomic i32, ptr %waiters seq_cst, align 4
  %anybody = icmp ne i32 %waiting, 0
  br i1 %anybody, label %tell, label %check_background
tell:
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 4
  %ignored = atomicrmw add ptr %sequence, i32 1 seq_cst
  call void @wake(ptr %sequence, i32 2147483647)
  br label %check_background
check_background:
  %head.address = getelementptr %Control, ptr %control, i32 0, i32 0
  %head = load atomic i64, ptr %head.address seq_cst, align 8
  %requested.address = getelementptr %Control, ptr %control, i32 0, i32 6
  %requested = load atomic i64, ptr %requested.address seq_cst, align 8
  %pending = icmp ult i64 %head, %requested
  br i1 %pending, label %call_background, label %done
call_background:
  call void @wake_background(ptr %control)
  br label %done
done:
  ret void
}

define internal void @background_main(ptr %control) nounwind {
entry:
  %head.address = getelementptr %Control, ptr %control, i32 0, i32 0
  %requested.address = getelementptr %Control, ptr %control, i32 0, i32 6
  %driving = getelementptr %Control, ptr %control, i32 0, i32 7
  %sleeping = getelementptr %Control, ptr %control, i32 0, i32 8
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 9
  %stopping = getelementptr %Control, ptr %control, i32 0, i32 10
  br label %look
look:
  %turn = phi i32 [ 0, %entry ], [ 0, %drove ], [ %turn.next, %again ], [ 0, %slept ]
  %turn.next = add i32 %turn, 1
  %stop = load atomic i32, ptr %stopping seq_cst, align 4
  %stops = icmp ne i32 %stop, 0
  br i1 %stops, label %done, label %check_work
check_work:
  %head = load atomic i64, ptr %head.address seq_cst, align 8
  %requested = load atomic i64, ptr %requested.address seq_cst, align 8
  %pending = icmp ult i64 %head, %requested
  br i1 %pending, label %try, label %idle
try:
  %won = call i1 @start_driving(ptr %control)
  br i1 %won, label %drove, label %idle
drove:
  %finished = call i1 @drive(ptr %control, i64 %requested, i64 -1)
  call void @stop_driving(ptr %control)
  br label %look
idle:
  %patient = icmp ult i32 %turn, 500
  br i1 %patient, label %again, label %sleep
again:
  call void @pause()
  br label %look
sleep:
  %seen = load atomic i32, ptr %sequence seq_cst, align 4
  store atomic i32 1, ptr %sleeping seq_cst, align 4
  %stop.again = load atomic i32, ptr %stopping seq_cst, align 4
  %head.again = load atomic i64, ptr %head.address seq_cst, align 8
  %requested.again = load atomic i64, ptr %requested.address seq_cst, align 8
  %pending.again = icmp ult i64 %head.again, %requested.again
  %driven = load atomic i32, ptr %driving seq_cst, align 4
  %free = icmp eq i32 %driven, 0
  %can_work = and i1 %pending.again, %free
  %stops.again = icmp ne i32 %stop.again, 0
  %stay_awake = or i1 %can_work, %stops.again
  br i1 %stay_awake, label %slept, label %do_sleep
do_sleep:
  call void @sleep_on(ptr %sequence, i32 %seen, i64 -1)
  br label %slept
slept:
  store atomic i32 0, ptr %sleeping seq_cst, align 4
  br label %look
done:
  ret void
}

define internal void @helper_main(ptr %control, i64 %worker) nounwind {
entry:
  %stopping = getelementptr %Control, ptr %control, i32 0, i32 10
  %unclaimed = getelementptr %Control, ptr %control, i32 0, i32 12
  %sleeping = getelementptr %Control, ptr %control, i32 0, i32 22
  %sequence = getelementptr %Control, ptr %control, i32 0, i32 23
  br label %look
look:
  %turn = phi i32 [ 0, %entry ], [ 0, %work ], [ %turn.next, %again ], [ 0, %slept ]
  %turn.next = add i32 %turn, 1
  %left = load atomic i32, ptr %unclaimed seq_cst, align 4
  %any = icmp ne i32 %left, 0
  br i1 %any, label %work, label %check_stop
work:
  call void @claim_parts(ptr %control, i64 %worker)
  br label %look
check_stop:
  %stop = load atomic i32, ptr %stopping seq_cst, align 4
  %stops = icmp ne i32 %stop, 0
  br i1 %stops, label %done, label %check_turn
check_turn:
  %patient = icmp ult i32 %turn, 1500
  br i1 %patient, label %again, label %sleep
again:
  call void @pause()
  br label %look
sleep:
  %seen = load atomic i32, ptr %sequence seq_cst, align 4
  %ignored.1 = atomicrmw add ptr %sleeping, i32 1 seq_cst
  %left.again = load atomic i32, ptr %unclaimed seq_cst, align 4
  %stop.again = load atomic i32, ptr %stopping seq_cst, align 4
  %either = or i32 %left.again, %stop.again
  %stay_awake = icmp ne i32 %either, 0
  br i1 %stay_awake, label %slept, label %do_sleep
do_sleep:
  call void @sleep_on(ptr %sequence, i32 %seen, i64 -1)
  br label %slept
slept:
  %ignored.2 = atomicrmw sub ptr %sleeping, i32 1 seq_cst
  br label %look
done:
  ret void
}

; Start routine of every native thread: the first is the background driver, the others help.
define ptr @dovetile_thread(ptr %control) nounwind {
entry:
  %alive = getelementptr %Control, ptr %control, i32 0, i32 27
  %next = getelementptr %Control, ptr %control, i32 0, i32 28
  %ignored.1 = atomicrmw add ptr %alive, i32 1 seq_cst
  %worker = atomicrmw add ptr %next, i32 1 seq_cst
  %first = icmp eq i32 %worker, 0
  br i1 %first, label %background, label %helper
background:
  call void @background_main(ptr %control)
  br label %done
helper:
  %worker.wide = zext i32 %worker to i64
  call void @helper_main(ptr %control, i64 %worker.wide)
  br label %done
done:
  %ignored.2 = atomicrmw sub ptr %alive, i32 1 seq_cst
  ret ptr null
}
