"""DistAIM's servers as three processes: replicated shares in NumPy, what is not linear in SPU (extra ``spu``).

``questions`` says what the servers are asked, ``server`` answers with NumPy alone, ``engine`` is the one module that
imports SPU: its link between the servers, its absolute values and its comparisons.
"""
