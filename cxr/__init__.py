"""The ground floor: what every package needs, and the command line `cxr`."""
