"""The whole system on one machine, with a simulated exchange in place of the real one."""
