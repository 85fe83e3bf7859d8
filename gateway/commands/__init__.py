"""The commands of `aiaas`, one file for each group of them."""
