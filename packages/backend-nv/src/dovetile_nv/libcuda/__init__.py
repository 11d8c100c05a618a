"""The command queue over libcuda, the library that comes with NVIDIA's driver."""
