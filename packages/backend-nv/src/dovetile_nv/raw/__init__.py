"""The command queue written straight to the hardware, over the kernel driver's ioctls."""
