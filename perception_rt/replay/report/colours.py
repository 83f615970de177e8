"""Colours of the report: one per outcome and stage, distinguishable with colour blindness.

Outcomes use the palette of Okabe and Ito (2008), stages that of Tol (2021), lighter on dark backgrounds.
"""

LIGHT = {
    "outcome-published": "#4a9fd4",
    "outcome-superseded": "#e69f00",
    "outcome-late": "#c8b400",
    "outcome-unsynced": "#cc79a7",
    "outcome-rejected": "#005a8f",
    "outcome-decode_error": "#d55e00",
    "outcome-model_error": "#1a1a1a",
    "outcome-unreadable": "#8c8c8c",
    "series-age": "#0072b2",
    "series-wait": "#7a7a7a",
    "series-decode": "#117733",
    "series-infer": "#332288",
    "series-publish": "#aa4499",
    "class-0": "#0072b2",
    "class-1": "#d55e00",
    "class-2": "#009e73",
    "class-3": "#cc79a7",
    "class-4": "#e69f00",
    "class-5": "#56b4e9",
    "class-6": "#7a7a7a",
    "class-7": "#1a1a1a",
}
DARK = LIGHT | {
    "outcome-published": "#56b4e9",
    "outcome-late": "#f0e442",
    "outcome-rejected": "#2f7fd0",
    "outcome-decode_error": "#e8743b",
    "outcome-model_error": "#f2f2f2",
    "series-age": "#56b4e9",
    "series-wait": "#b0b0b0",
    "series-decode": "#4fc27a",
    "series-infer": "#9b93f0",
    "series-publish": "#e08ad6",
    "class-0": "#56b4e9",
    "class-5": "#9fd8ff",
    "class-7": "#f2f2f2",
}
