"""The student in three lines of Python, and the command `sam_tinyusfm`: doors to what is in the other rooms.

`student.load` picks an engine (`engines`, `exports`) for a checkpoint. `Student.segment` reads images (`images`) and
gives a `result`. `command` starts the bundle's programs. `sam_tinyusfm/` is the package that an installation has: it
shows the modules of scripts/ under its own name, so that no other package called scripts is in their way.
"""
