"""The commands, one file a noun: a new file registers its commands on the shared app and needs no second edit."""
