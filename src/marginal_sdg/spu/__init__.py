"""DistAIM's three servers and its clients as processes; servers compute with SPU (extra ``spu``).

    python -m marginal_sdg.spu certificates --out identities --clients 20
    python -m marginal_sdg.spu server --rank 0 --listen a:7200 --links a:7300,b:7300,c:7300 \\
        --identity identities/server-0                     # and so on, on three machines
    python -m marginal_sdg.spu client --number 0 --csv table.csv --domain domain.yaml --listen d:7400 \\
        --servers a:7200,b:7200 --identity identities/client-0                        # and so on
    python -m marginal_sdg.spu demo --dataset magic --out synthetic.csv    # starts all of them here, and asks them

Only servers import SPU; ``DistAIM(engine="spu", servers=[...], identity=...)`` asks them from any environment. A server
that is killed and started again goes on in its session, and with ``store=...`` so does who asks. All connections are
encrypted and authenticated at both ends by certificates of one authority; on one machine they may go without.
"""
