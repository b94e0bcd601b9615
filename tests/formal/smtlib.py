"""The solver Bitwuzla, from its Python wheel, as the program that yosys-smtbmc talks to: SMT-LIB in, answers out."""

import sys

import bitwuzla


def main() -> None:
    """Answer commands from standard input until ``(exit)``."""
    if "--help" in sys.argv:  # by which smtbmc tells versions
        print("--lang")
        return
    options = bitwuzla.Options()
    options.set(bitwuzla.Option.PRODUCE_MODELS, True)
    parser = bitwuzla.Parser(bitwuzla.TermManager(), options)
    command, depth = "", 0
    for line in sys.stdin:
        command += line
        depth += line.count("(") - line.count(")")
        if depth == 0 and command.strip():
            if command.strip() == "(exit)":
                return
            parser.parse(command, False, False)
            sys.stdout.flush()
            command = ""


if __name__ == "__main__":
    main()
