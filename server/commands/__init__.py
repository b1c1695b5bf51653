"""The commands of ``r2sm``, one to a file; each file has a function of the command's name."""
