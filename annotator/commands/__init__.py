"""The command line by theme: one function per command, which reads flags, calls the library and prints."""
