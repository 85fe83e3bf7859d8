"""A linear head: multinomial logistic regression on the features of a set's examples."""

import msgspec
import numpy as np
from numpy.typing import NDArray

_FOLDS = 5
_REJECTED_SHARE = 0.10
_LEAST_EIGENVALUE = 1e-6
_MOST_ITERATIONS = 500


class LinearHead:
    """Probabilities over the intents of one set.

    Args:
        weights: one row a feature, one column an intent.
        bias: one an intent.
    """

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.weights = weights
        self.bias = bias

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """One row per vector, one column per intent; rows add up to 1."""
        scores = vectors @ self.weights + self.bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def fit_head(vectors: NDArray[np.float32], labels: NDArray[np.int64], inverse_penalty: float) -> LinearHead:
    """Fit a head to examples.

    The regression is fitted in the space that the examples span, not in that of the features: with an L2
    penalty the best weights lie in it (the representer theorem), and it has as many dimensions as there are
    examples at most, however many features there are. No chance is in it.
    """
    from sklearn.linear_model import LogisticRegression

    eigenvalues, eigenvectors = np.linalg.eigh((vectors @ vectors.T).astype(np.float64))
    kept = eigenvalues > _LEAST_EIGENVALUE
    basis = eigenvectors[:, kept] / np.sqrt(eigenvalues[kept])
    coordinates = eigenvectors[:, kept] * np.sqrt(eigenvalues[kept])
    regression = LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS)
    regression.fit(coordinates, labels)
    weights = vectors.T.astype(np.float64) @ (basis @ regression.coef_.T)
    return LinearHead(weights.astype(np.float32), np.asarray(regression.intercept_, np.float32))


class Validation(msgspec.Struct, frozen=True):
    """What 5-fold cross-validation over a set's own examples says of a head.

    Attributes:
        accuracy: the share of the examples that are recognised rightly when their fold was left out.
        threshold: the default for `out_of_scope`: the probability that nine in ten of those reach. Heads
            that know all examples are surer, so in service fewer than one in ten of such sentences fall
            below it. 0 where none are.
    """

    accuracy: float
    threshold: float


def cross_validate(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], inverse_penalty: float
) -> Validation:
    """Fit a head to each four of five folds, and ask it for the fifth."""
    fold = np.arange(len(labels)) % _FOLDS
    best = np.zeros(len(labels))
    right = np.zeros(len(labels), np.bool_)
    for held_out in range(_FOLDS):
        test = fold == held_out
        probabilities = fit_head(vectors[~test], labels[~test], inverse_penalty).probabilities(vectors[test])
        best[test] = probabilities.max(axis=1)
        right[test] = probabilities.argmax(axis=1) == labels[test]
    threshold = float(np.quantile(best[right], _REJECTED_SHARE)) if right.any() else 0.0
    return Validation(float(right.mean()), threshold)
