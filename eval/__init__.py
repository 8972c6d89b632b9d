"""Programs that measure: what a distillation brings and what it costs.

compare and preflight judge a student and its teacher, recipes the parts of the loss, benchmark the cost, federated a
training over many sites; robustness probes networks, presence calibrates a student, organs trains students of several
organs, nnunet trains an anchor; publish and card write the figures that are shared. They use scripts/, which never uses
them.
"""

import scripts  # noqa: F401  switches reports of libraries off, before a program imports them
