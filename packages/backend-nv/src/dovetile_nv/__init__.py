"""NVIDIA GPUs as a Dovetile device. Nothing here is imported by users: it joins as a plugin."""
