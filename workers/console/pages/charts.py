"""Options of charts, which NiceGUI's own ECharts draws.

Names from outside may stand in values only, never as a field's name: NiceGUI runs what stands under a name
that begins with a colon. Tooltips are painted, not written as HTML.
"""

from collections.abc import Sequence
from typing import Any

#: Legible on light and on dark.
TEXT, LINE = "#8590a3", "rgba(133, 144, 163, .18)"
#: Eight colours of about the same weight; the first is the console's own.
PALETTE = ("#4c6ef5", "#12a594", "#f59f00", "#e8590c", "#9c5fe0", "#3b9ddd", "#d6467e", "#7cb518")
OTHERS = "#98a2b3"
TONES = {"good": "#2bb07f", "warn": "#f0a020", "bad": "#e5533d", "info": "#4c6ef5", "idle": "#98a2b3"}
FONT = "Roboto, system-ui, sans-serif"

Options = dict[str, Any]


def stacked_bars(
    labels: Sequence[str], series: Sequence[tuple[str, Sequence[float], str]], unit: str = ""
) -> Options:
    """Stacked bars over time.

    Args:
        labels: of the bars.
        series: a name, its values and a colour each, from the bottom.
        unit: stands before each value of the axis, such as `$`.
    """
    return {
        **_base(labels),
        "yAxis": _value_axis(unit),
        "series": [
            {
                "name": name,
                "type": "bar",
                "stack": "all",
                "data": list(values),
                "itemStyle": {"color": colour},
                "barMaxWidth": 26,
                "barCategoryGap": "28%",
                "emphasis": {"focus": "series"},
            }
            for name, values, colour in series
        ],
    }


def line(labels: Sequence[str], name: str, values: Sequence[float | None]) -> Options:
    """A line over time."""
    return {
        **_base(labels, legend=False),
        "yAxis": _value_axis(""),
        "series": [
            {
                "name": name,
                "type": "line",
                "data": list(values),
                "showSymbol": False,
                "smooth": 0.2,
                "lineStyle": {"width": 2, "color": PALETTE[0]},
                "itemStyle": {"color": PALETTE[0]},
                "areaStyle": {"color": PALETTE[0], "opacity": 0.08},
            }
        ],
    }


def sparkline() -> Options:
    """A line without axes, as small as a table's cell; its values come with each row."""
    return {
        "animation": False,
        "grid": {"left": 1, "right": 1, "top": 3, "bottom": 2},
        "xAxis": {"type": "category", "show": False, "boundaryGap": False},
        "yAxis": {"type": "value", "show": False, "min": 0},
        "series": [
            {
                "type": "line",
                "silent": True,
                "showSymbol": False,
                "smooth": 0.2,
                "data": [],
                "lineStyle": {"width": 1.5, "color": PALETTE[0]},
                "areaStyle": {"color": PALETTE[0], "opacity": 0.1},
            }
        ],
    }


def waterfall(steps: Sequence[tuple[str, int, int, str]]) -> Options:
    """Where time went: a bar for each step, from where it began.

    Args:
        steps: a name, the beginning and the duration in milliseconds, and a colour each, from the top.
    """
    names = [name for name, *_ in steps]
    return {
        "animation": False,
        "textStyle": {"fontFamily": FONT},
        "grid": {"left": 8, "right": 64, "top": 8, "bottom": 8, "containLabel": True},
        "tooltip": _tooltip(),
        "xAxis": {
            "type": "value",
            "axisLabel": {"color": TEXT, "formatter": "{value} ms", "hideOverlap": True},
            "splitLine": {"lineStyle": {"color": LINE}},
        },
        "yAxis": {
            "type": "category",
            "inverse": True,
            "data": names,
            "axisLine": {"show": False},
            "axisTick": {"show": False},
            "axisLabel": {"color": TEXT},
        },
        "series": [
            {
                "type": "bar",
                "stack": "time",
                "silent": True,
                "data": [begin for _, begin, _, _ in steps],
                "itemStyle": {"color": "transparent"},
                "tooltip": {"show": False},
            },
            {
                "name": "took",
                "type": "bar",
                "stack": "time",
                "barMaxWidth": 16,
                "data": [
                    {"value": took, "itemStyle": {"color": colour, "borderRadius": 3}}
                    for _, _, took, colour in steps
                ],
                "label": {"show": True, "position": "right", "color": TEXT, "formatter": "{c} ms"},
            },
        ],
    }


def _base(labels: Sequence[str], *, legend: bool = True) -> Options:
    return {
        "animation": False,
        "textStyle": {"fontFamily": FONT},
        "grid": {"left": 8, "right": 12, "top": 14, "bottom": 32 if legend else 8, "containLabel": True},
        "tooltip": {**_tooltip(), "trigger": "axis", "axisPointer": {"type": "shadow"}, "order": "valueDesc"},
        "legend": {
            "show": legend,
            "type": "scroll",
            "bottom": 0,
            "left": 0,
            "itemWidth": 10,
            "itemHeight": 10,
            "icon": "roundRect",
            "textStyle": {"color": TEXT},
            "pageTextStyle": {"color": TEXT},
            "pageIconColor": TEXT,
        },
        "xAxis": {
            "type": "category",
            "data": list(labels),
            "axisLine": {"lineStyle": {"color": LINE}},
            "axisTick": {"show": False},
            "axisLabel": {"color": TEXT, "hideOverlap": True},
        },
    }


def _value_axis(unit: str) -> Options:
    return {
        "type": "value",
        "minInterval": 0 if unit else 1,
        "axisLabel": {"color": TEXT, "formatter": f"{unit}{{value}}"},
        "splitLine": {"lineStyle": {"color": LINE}},
        "splitNumber": 4,
    }


def _tooltip() -> Options:
    return {
        "renderMode": "richText",
        "confine": True,
        "backgroundColor": "#20262f",
        "borderWidth": 0,
        "textStyle": {"color": "#eef1f6", "fontSize": 12, "fontFamily": FONT},
    }
