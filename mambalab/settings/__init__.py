"""Every option, typed: what it may be and one line of help. Values live in conf/."""
