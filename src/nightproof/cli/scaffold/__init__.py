"""Write a service folder from a trained model and a CSV file: the rooms behind `nightproof new`.

`table` reads the CSV, `readings` finds out how training read it, `columns` infers the types, `models` asks
the model, `render` writes the text. `probe` and `prove` run in child processes, since a model file is code.
"""
