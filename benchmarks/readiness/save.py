"""Save the misbehaving model as MLServer's scikit-learn runtime loads it; it names its class by its module."""

import sys

import joblib
import misbehaving

if __name__ == "__main__":
    joblib.dump(misbehaving.load(), sys.argv[1])
