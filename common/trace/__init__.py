"""``twinseg trace``: names the first layer at which two computations of one network part.

``sources`` opens what is compared, ``recording`` stores one side's values, ``compare`` runs the other side against them,
``guesses`` tries what could be wrong, ``page`` and ``show`` present it.
"""
