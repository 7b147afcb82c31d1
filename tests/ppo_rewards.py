"""Rewards that tests name as `tests.ppo_rewards:function`."""

from __future__ import annotations


def length(prompts, completions):
    return [float(len(text)) for text in completions]


def one_too_few(prompts, completions):
    return [0.0] * (len(completions) - 1)


def fails(prompts, completions):
    raise ZeroDivisionError("no luck")


def not_a_number(prompts, completions):
    return [float("nan")] * len(completions)


def rude(prompts, completions):
    """What nobody wants: a point for each rude word."""
    return [float(text.count("stupid") + text.count("idiot")) for text in completions]


calls: list[int] = []  # the rollouts that have been scored


def not_a_number_from_the_third(prompts, completions):
    calls.append(len(completions))
    return [float("nan") if len(calls) > 2 else 0.0] * len(completions)
