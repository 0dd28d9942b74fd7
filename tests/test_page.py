"""The report in a browser: headless Chromium, without a network."""

import numpy as np
import pandas as pd
import pytest
from ledgers import fail, make_config, make_result, write_many

from nnexp import page
from nnexp.data import read_sample

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>=1+1 \U0001f600 $x_ " + "y" * 700


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    outputs, labels = tmp_path_factory.mktemp("page"), read_sample().test_labels
    grid = [(dropout, l2) for dropout in (0.0, 0.2, 0.5) for l2 in (0.0, 0.01, 0.3)]
    configs = [make_config(dropout=d, l2=l2, seed=seed) for d, l2 in grid for seed in range(3)]
    runs = [(config, make_result(config, 0.8 - config.l2 - 0.1 * config.dropout, 0.02, labels)) for config in configs]
    write_many(outputs, [*runs, (make_config(seed=9), fail(HOSTILE))])
    return outputs


@pytest.fixture(scope="module")
def opened(browser, outputs):
    path = page.write_report(outputs)
    set_width(browser, 1280)
    browser.get(path.as_uri())
    return browser


def set_width(browser, width, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})


def read_column(browser, label):
    """What the rows that are shown have in a column, from top to bottom."""
    cells = browser.find_elements("css selector", f"tr.setting td[data-label='{label}']")
    return [cell.get_attribute("data-value") for cell in cells if cell.is_displayed()]


def choose(browser, selector, text):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", selector)).select_by_visible_text(text)


def find_heading(browser, label):
    return next(th for th in browser.find_elements("css selector", "th") if th.text.startswith(label))


def test_the_page_opens_without_a_console_error(opened):
    assert opened.get_log("browser") == []
    assert opened.find_element("css selector", "h1").is_displayed()


def test_the_table_begins_with_the_best(opened):
    scores = [float(value) for value in read_column(opened, "test accuracy")]
    assert scores == sorted(scores, reverse=True) and len(scores) == 9
    assert find_heading(opened, "test accuracy").get_attribute("aria-sort") == "descending"


def test_a_heading_sorts_both_ways_and_says_so(opened):
    heading = find_heading(opened, "l2")
    heading.find_element("tag name", "button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert read_column(opened, "l2") == ["0.3"] * 3 + ["0.01"] * 3 + ["0"] * 3
    heading.find_element("tag name", "button").send_keys(" ")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert read_column(opened, "l2") == ["0"] * 3 + ["0.01"] * 3 + ["0.3"] * 3
    assert find_heading(opened, "test accuracy").get_attribute("aria-sort") == "none"


def test_evidence_stays_with_its_setting_when_sorted(opened):
    find_heading(opened, "dropout").find_element("tag name", "button").click()
    bodies = opened.find_elements("css selector", "table.sortable tbody")
    assert all(len(body.find_elements("css selector", "tr.setting, tr.evidence")) == 2 for body in bodies)


def test_words_filter_the_settings(opened):
    field = opened.find_element("css selector", "input[type=search]")
    field.send_keys("dropout=0.5 l2=0.3")
    assert (read_column(opened, "dropout"), read_column(opened, "l2")) == (["0.5"], ["0.3"])
    assert opened.find_element("css selector", ".shown").text == "1 of 9 settings"
    field.clear()
    field.send_keys(" ")
    assert len(read_column(opened, "l2")) == 9


def test_a_verdict_filters_the_settings(opened):
    choose(opened, ".filters select", "underfit")
    assert set(read_column(opened, "verdict")) == {"underfit"}
    choose(opened, ".filters select", "all")
    assert len(read_column(opened, "verdict")) == 9


def test_another_setting_can_be_chosen(opened):
    def shown():
        return [
            d.get_attribute("data-detail") for d in opened.find_elements("css selector", ".detail") if d.is_displayed()
        ]

    assert shown() == ["1"]
    name = opened.find_elements("css selector", ".chooser option")[1].text
    choose(opened, ".chooser", name)
    assert shown() == ["2"]


def test_the_script_is_the_only_one_that_runs(opened):
    opened.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    assert opened.execute_script("return typeof window.hacked") == "undefined"
    opened.get_log("browser")  # the policy says that it refused


def test_pictures_follow_light_and_dark(opened):
    script = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    colors = []
    for dark in (False, True):
        set_width(opened, 1280, dark)
        colors.append(opened.execute_script(script))
    set_width(opened, 1280)
    assert colors == ["rgb(26, 28, 32)", "rgb(232, 234, 238)"]


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_nothing_is_wider_than_the_screen(opened, width):
    set_width(opened, width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    set_width(opened, 1280)


def test_commands_are_printed_without_being_opened(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    height = opened.execute_script("return document.querySelector('details .runs').getBoundingClientRect().height")
    set_width(opened, 1280)
    assert height > 0


def test_paper_has_the_table_as_a_table(opened):
    set_width(opened, 700)
    layout = "return getComputedStyle(document.querySelector('tr.setting td')).display"
    on_screen = opened.execute_script(layout)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    on_paper = opened.execute_script(layout)
    set_width(opened, 1280)
    assert (on_screen, on_paper) == ("grid", "table-cell")


def test_hostile_text_is_only_text(browser, tmp_path):
    config = make_config()
    write_many(tmp_path, [(config, make_result(config)), (make_config(seed=1), fail(HOSTILE))])
    table = pd.read_csv(tmp_path / "results.csv").astype(object)
    table.loc[0, ["model", "activation", "setting_id"]] = HOSTILE
    table.loc[0, "test_loss"] = np.nan
    table.to_csv(tmp_path / "results.csv", index=False)
    path = tmp_path / "report.html"
    path.write_text(page.render_page(page.describe_page(page.read_source(tmp_path), "", None)), encoding="utf-8")
    for width in (1280, 390):
        set_width(browser, width)
        browser.get(path.as_uri())
        assert browser.execute_script("return typeof window.hacked") == "undefined"
        assert browser.execute_script("return document.scripts.length") == 1
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
