"""Tables and frames for the notebooks, from the committed results alone: records, published rows, run folders.

Nothing here trains, and nothing is typed by hand: what has no record says so. Intervals resample seeds and expressions
(`mmlib.measure.intervals`); with one seed an arm, they are about the expressions only, and no claim about arms follows.
"""

from mmlib.measure.intervals import SETTLED
from mmlib.report.arms import COMPARED, HEADLINE, METRICS, NO_RECORD, arm_of, curves, scored, shipped, shipped_arm
from mmlib.report.by_part import parts, seen_unseen, traits, traits_path, write_traits
from mmlib.report.claims import claims_table
from mmlib.report.figures import MATCH_TERMS, learning_figure, parts_figure, ratios_figure, rivals_figure, stages_figure
from mmlib.report.grid import (
    EFFICIENCY,
    TAUGHT,
    efficiency,
    efficiency_figure,
    grid_differences,
    grid_figure,
    grid_table,
    occluded,
    occlusion_areas,
    occlusion_figure,
    taught_figure,
)
from mmlib.report.looks import Looked, gallery_figure, look, looks_figure
from mmlib.report.outcomes import differences, intervals, outcomes_of, verdict
from mmlib.report.tables import (
    CONTROLS,
    PROBED,
    PROBES,
    arms_table,
    benchmark_table,
    benchmarks,
    filled,
    main_table,
    probes_table,
    publish_tables,
    published,
    table,
)

__all__ = [
    "COMPARED", "CONTROLS", "EFFICIENCY", "HEADLINE", "MATCH_TERMS", "METRICS", "NO_RECORD", "PROBED", "PROBES", "SETTLED",
    "TAUGHT", "Looked", "arm_of", "arms_table", "benchmark_table", "benchmarks", "claims_table", "curves", "differences",
    "efficiency", "efficiency_figure", "filled", "gallery_figure", "grid_differences", "grid_figure", "grid_table", "intervals",
    "learning_figure", "look", "looks_figure", "main_table", "occluded", "occlusion_areas", "occlusion_figure", "outcomes_of",
    "parts", "parts_figure", "probes_table", "publish_tables", "published", "ratios_figure", "rivals_figure", "scored",
    "seen_unseen", "shipped", "shipped_arm", "stages_figure", "table", "taught_figure", "traits", "traits_path", "verdict",
    "write_traits",
]
