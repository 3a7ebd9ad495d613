"""The report's page, made as users make it and opened in a real browser."""

from __future__ import annotations

from itertools import pairwise

import pytest
from browser import chromium, opened
from hostile import MARKUP, hostile

from attrscore.cli.main import main

FLAT = ["dataset.cells=40", "dataset.size=[32,32]", "method=[grad_cam,saliency]"]
FLAT += ["layers=features.3"]
DEEP = ["dataset=phantom_3d", "dataset.cells=10", "dataset.size=[8,24,24]", "method=saliency"]
KEPT = ["keep=native", "figures=none", "model.seed=0"]
MOST_BYTES = 15 * 10**6


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of two runs in 2D, one of a volume, one of what an enemy wrote."""
    folder = tmp_path_factory.mktemp("page")

    def run(name, *settings):
        where = str(folder / name)
        assert main([*settings, *KEPT, f"results={where}", f"hydra.run.dir={where}/hydra"]) == 0
        return where

    first, second = run("first", *FLAT), run("second", *FLAT, "heat.sign=absolute")
    volume, enemy = run("volume", *DEEP), str(hostile(folder / "enemy"))
    made = {}
    for name, places in {"flat": [first, second], "deep": [volume], "enemy": [enemy]}.items():
        assert main(["report", *places, "-o", str(folder / "report" / name)]) == 0
        made[name] = folder / "report" / name / "report.html"
    return made


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def shown(page, selector):
    return [each.inner_text() for each in page.query_selector_all(selector) if each.is_visible()]


def move(page, selector, value):
    page.eval_on_selector(
        selector,
        "(each, value) => { each.value = value; each.dispatchEvent(new Event('input')); }",
        str(value),
    )


def test_the_slider_moves_shares_and_leaves_what_is_attainable_beside_them(pages, browser):
    with opened(browser, pages["flat"]) as page:
        move(page, "#threshold", 0)
        low = [float(text.split()[0]) for text in shown(page, "td.above")]
        assert shown(page, "#threshold-value") == ["0.00"]
        move(page, "#threshold", 100)
        high = [float(text.split()[0]) for text in shown(page, "td.above")]
        assert len(low) == 4
        assert min(low) > 50
        assert high == [0.0] * 4
        assert shown(page, "td.attainable") == ["0 %"] * 4
        page.focus("#threshold")
        page.keyboard.press("Home")
        assert shown(page, "#threshold-value") == ["0.00"]


def test_the_heat_table_shows_another_number(pages, browser):
    with opened(browser, pages["flat"]) as page:
        before = shown(page, "td[data-heat]")
        page.select_option("#metric", "log_odds")
        after = shown(page, "td[data-heat]")
        assert len(before) == len(after)
        assert before != after
        assert "0 is chance" in page.inner_text("#metric-says")


def test_no_column_is_cut_off_on_a_usual_screen_and_strips_show_that_they_scroll(pages, browser):
    cut = """() => [...document.querySelectorAll('.scroll')].filter(
        (each) => each.scrollWidth > each.clientWidth + 1).map((each) => each.ariaLabel)"""
    for name in ("flat", "deep"):
        with opened(browser, pages[name], viewport={"width": 1280, "height": 900}) as page:
            page.evaluate(
                "document.querySelectorAll('details').forEach((each) => each.open = true)"
            )
            assert page.evaluate(cut) == []
            style = page.eval_on_selector(".maps", "each => getComputedStyle(each).backgroundImage")
            assert style.count("gradient") == 4  # shadows at the sides with more to see
    with opened(browser, pages["flat"], viewport={"width": 400, "height": 900}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_says_how_right_the_model_is_and_why_a_verdict_does_not_decide(pages, browser):
    with opened(browser, pages["flat"]) as page:
        assert "may know some by heart" in page.inner_text("#accuracy")
        assert len(page.query_selector_all("#accuracy table.matrix tbody tr")) == 2
        subsets = page.inner_text("#subsets")
        assert "class" in subsets
        assert page.query_selector_all("#regions svg")
        why = page.inner_text("#verdict ul.why")
        assert "missing" in why


def test_tables_sort_and_filter(pages, browser):
    with opened(browser, pages["flat"]) as page:
        assert page.inner_text("#cells-count") == "160 rows"
        choice = page.query_selector("select[data-filter='2']")
        choice.select_option(index=1)
        assert page.inner_text("#cells-count") == "40 of 160 rows"
        page.fill("#f-any", "000007")
        assert shown(page, "#cells-table tbody th") == ["phantom-0-000007"]
        page.fill("#f-any", "")
        score = page.locator("#cells-table thead th").nth(3).locator("button")
        for way, sign in (("ascending", 1), ("descending", -1)):
            score.click()
            assert page.locator("#cells-table thead th").nth(3).get_attribute("aria-sort") == way
            values = [float(text) for text in shown(page, "#cells-table td:nth-child(4)")]
            assert values == sorted(values, key=lambda value: sign * value)
        page.click("#cells-on")
        assert page.inner_text("#cells-page") == "page 2 of 2"
        runs = page.locator("#run-pairs thead th").nth(3).locator("button")
        runs.click()
        told = [float(t.replace("−", "-")) for t in shown(page, "#run-pairs td:nth-child(4)")]
        assert told == sorted(told)
        assert len(told) == 2  # two methods, each in both runs
        assert page.query_selector_all("#changed a[href^='#cell-']")


def test_the_gallery_is_arranged_by_the_condition_chosen(pages, browser):
    with opened(browser, pages["flat"]) as page:
        cards = page.query_selector_all(".card")
        assert len(cards) == 30
        order = page.eval_on_selector_all(".card", "all => all.map(each => each.id)")
        page.select_option("#gallery-by", index=3)
        assert page.eval_on_selector_all(".card", "all => all.map(each => each.id)") != order
        page.fill("#gallery-find", "label-that-nobody-has")
        assert shown(page, ".card") == []
        assert page.is_visible("#gallery-none")
        page.fill("#gallery-find", "")
        picture = ".tile .view"
        layers = page.eval_on_selector(picture, "e => getComputedStyle(e).backgroundImage")
        assert layers.count("data:image") == 3  # outlines, heat, image
        page.uncheck("#show-heat")
        layers = page.eval_on_selector(picture, "e => getComputedStyle(e).backgroundImage")
        assert layers.count("data:image") == 2
        anchor = page.query_selector(".card h4 a").get_attribute("href")
        page.goto(f"{page.url.partition('#')[0]}{anchor}")
        assert page.evaluate("document.querySelector('.card:target') !== null")


def test_depth_moves_all_pictures_of_a_volume(pages, browser):
    with opened(browser, pages["deep"]) as page:
        card = page.query_selector(".card.volume")
        views = [each.get_attribute("class") for each in card.query_selector_all(".whole .views *")]
        assert views == ["view colour xy", "view colour xz", "view colour yz"]
        places = "all => all.map(each => getComputedStyle(each).backgroundPositionY)"
        move(page, ".card.volume input[data-depth]", 0)
        first = card.eval_on_selector_all(".view.xy", places)
        before = card.query_selector(".tile .view.xy").screenshot()
        move(page, ".card.volume input[data-depth]", 7)
        last = card.eval_on_selector_all(".view.xy", places)
        assert {place.split(",")[0] for place in first} == {"0%"}
        assert {place.split(",")[0] for place in last} == {"100%"}
        assert card.query_selector(".tile .view.xy").screenshot() != before
        assert "z = 7 of 7" in card.inner_text()


@pytest.mark.parametrize("name", ["flat", "deep", "enemy"])
def test_every_page_is_small_legible_in_the_dark_on_a_phone_and_on_paper(pages, browser, name):
    assert pages[name].stat().st_size < MOST_BYTES
    colours = {}
    for scheme in ("light", "dark"):
        with opened(browser, pages[name], color_scheme=scheme) as page:
            style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
            colours[scheme] = page.eval_on_selector("body", style)
            page.emulate_media(media="print")
            assert page.eval_on_selector("body", style)[1] == "rgb(255, 255, 255)"
            assert not page.is_visible("nav")
            assert page.pdf().startswith(b"%PDF")
    assert colours["light"][0] != colours["dark"][0]
    assert colours["light"][1] != colours["dark"][1]
    with opened(browser, pages[name], viewport={"width": 360, "height": 700}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("name", ["flat", "deep", "enemy"])
def test_what_cannot_be_seen_is_said(pages, browser, name):
    with opened(browser, pages[name]) as page:
        levels = page.eval_on_selector_all(
            "h1, h2, h3, h4", "all => all.map(each => Number(each.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        lacking = page.evaluate(
            """() => [
              ...[...document.querySelectorAll('input, select')].filter(e => !e.labels.length),
              ...[...document.querySelectorAll('[role=img], [role=region]')]
                .filter(e => !e.getAttribute('aria-label')),
              ...[...document.querySelectorAll('table:not(:has(th[scope]))')],
              ...[...document.querySelectorAll('button')].filter(e => !e.textContent.trim()),
            ].map(e => e.outerHTML.slice(0, 200))"""
        )
        assert lacking == []
        twice = page.evaluate(
            """() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
                       return ids.filter((id, i) => ids.indexOf(id) !== i); }"""
        )
        assert twice == []


def test_names_of_an_enemy_run_no_code(pages, browser):
    with opened(browser, pages["enemy"]) as page:
        assert page.evaluate("window.hurt") is None
        assert MARKUP in page.inner_text("main")
        assert page.query_selector_all("main img, main script") == []


def test_one_figure_alone(pages, tmp_path, capsys):
    results = str(pages["flat"].parents[2] / "first")
    for name in ("a.png", "b.svg"):
        assert main(["report", results, "--figure", "scores", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 2000
    capsys.readouterr()
    assert main(["report", results, "--figure", "score"]) == 2
    assert "Did you mean 'scores'?" in capsys.readouterr().err
    assert main(["report", results, "--json", "-o", str(tmp_path)]) == 2
