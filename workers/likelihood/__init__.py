"""log p(target | context) under a masked diffusion model: a Monte-Carlo estimate.

The estimate (LLaDA, arXiv 2502.09992) for a target of L tokens: l ~ U{1..L}, exactly l target tokens are masked,
uniformly at random, and -log p is the mean over draws of (L / l) * sum of the cross entropies at the masked tokens.

Many questions are answered together: masked inputs that are equal are computed once, whoever asks for them, and full
batches go through the model. Nothing here knows about texts, tokenizers or tasks.
"""

from workers.likelihood.batches import TokenBudget
from workers.likelihood.estimate import Question, log_likelihoods
from workers.likelihood.greedy import greedy_flags
from workers.likelihood.race import Contender

__all__ = ["Contender", "Question", "TokenBudget", "greedy_flags", "log_likelihoods"]
