"""The commands, by what they ask for; the table of them is in ``main``."""
