"""`python -m length_gen`, the command line wherever it is installed."""

from length_gen.lightning_modules.commands.help import program

if __name__ == "__main__":
    program()
