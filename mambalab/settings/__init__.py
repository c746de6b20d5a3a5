"""Settings of the groups of `mambalab train` and of sweeps: types, bounds, help.

The values are in conf/. The settings class of any other verb is at the top of the verb's file in
`mambalab/commands/`.
"""
