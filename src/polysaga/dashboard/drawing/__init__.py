"""Server-rendered SVG: attributes and classes only, no inline style, no script. Pure functions of plain data.

Positions along time are percentages, so text and strokes never scale; sparklines use a stretched viewBox with
`vector-effect: non-scaling-stroke`.
"""
