"""Tables as texts of other programs."""

from model.reports.grid import Grid


def test_latex_has_rules_minus_signs_and_no_commands_of_a_name():
    grid = Grid("A title\nof 2 % lines", ("class", "points"), [(r"50% \input{x}", "-1.5"), ("a_b & <c>", "+2 ± 1")])
    assert grid.latex() == (
        "% A title of 2 % lines\n"
        "\\begin{tabular}{lr}\n\\toprule\nclass & points \\\\\n\\midrule\n"
        "50\\% \\textbackslash{}input\\{x\\} & $-$1.5 \\\\\n"
        "a\\_b \\& $<$c$>$ & +2 $\\pm$ 1 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_a_bar_or_a_new_line_in_a_name_stays_within_its_cell():
    grid = Grid("title", ("a", "b"), [("x | y\nz", "1")])
    assert grid.markdown().splitlines()[-1] == "| x \\| y z | 1 |"
