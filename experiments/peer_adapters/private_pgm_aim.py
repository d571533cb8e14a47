"""Whether private-pgm's own AIM is there: its repository has it in ``mechanisms/``, which is no part of the package.

Once it is, this is where it is called; until then the import below is what fails. SmartNoise's AIM is adapted from it.
"""

import mechanisms.aim  # noqa: F401
