"""The numbers in the report, for comparison with ours. None of them was measured with this code.

All are for Beauty with the report's random 80/20 row split (18,055 / 4,514 rows), which leaks: see leakage.py.
"""

# (learning rate, batch size, dropout) -> (MRR@20, HR@20, accuracy)
GRU4REC_TRIALS = {
    (0.01, 256, 0.0): (0.452, 0.502, 0.38),
    (0.01, 256, 0.3): (0.413, 0.503, 0.34),
    (0.01, 128, 0.0): (0.436, 0.494, 0.40),
    (0.01, 128, 0.3): (0.378, 0.499, 0.30),
    (0.05, 128, 0.3): (0.012, 0.048, 0.00),
}

# The report's table of results, with the best trial of GRU4REC: model -> (MRR@20, HR@20, accuracy)
TABLE = {
    "GRU4REC": GRU4REC_TRIALS[0.01, 256, 0.0],
    "SRGNN": (0.0721, 0.126, 0.05),
    "NARM": (0.0748, 0.157, 0.05),
    "GRUwATT": (0.400, 0.464, 0.35),
    "GGNNwATT": (0.0775, 0.149, 0.05),
}

# Values that the report shows during training: model -> epoch -> (MRR@20, HR@20, accuracy)
PRINTED_EPOCHS = {
    "NARM": {60: (0.0748, 0.1568, 0.05), 80: (0.0730, 0.1509, 0.05), 100: (0.0733, 0.1504, 0.05)},
    "SRGNN": {60: (0.0721, 0.1265, 0.05), 80: (0.0652, 0.1185, 0.05)},
    "GRUwATT": {
        140: (0.3998, 0.4721, 0.35),
        160: (0.4015, 0.4688, 0.36),
        180: (0.4007, 0.4659, 0.36),
        200: (0.3986, 0.4641, 0.35),
    },
    "GGNNwATT": {60: (0.0759, 0.1495, 0.05), 80: (0.0764, 0.1449, 0.05), 100: (0.0775, 0.1493, 0.05)},
}
