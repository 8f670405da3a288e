"""What an explanation costs, in multiples of the plain input gradient of the same model, beside other libraries.

    python -m benchmarks.speed            measure everything, write docs/performance/ and docs/performance.md
    python -m benchmarks.speed --quick    small models, about a minute, nothing written into docs
    python -m benchmarks.speed --help     choose models, libraries, devices, repeats, threads

`subjects` are the models, `works` and `peers` what is measured on them, `clock` and `memory` how, `measure` puts these
together for one model, `worker` does so in a process of its own, `results` keeps the rows, `goals`, `page` and `plot`
present them.
"""
