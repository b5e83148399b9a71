# Copyright (c) The nl_plugins authors. All rights reserved.
"""The Chinese pages say what the English ones say: commands, code, tables, links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [
    ('README.md', 'README_zh-CN.md'),
    ('docs/en/get_started.md', 'docs/zh_cn/get_started.md'),
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


def code(text: str) -> list[tuple[str, str]]:
    """Fenced blocks without their comments, which are translated."""
    blocks = re.findall(r'```(\w+)\n(.*?)```', text, flags=re.DOTALL)
    return [(kind, re.sub(r'[ \t]*(?<!\S)#.*', '', body)) for kind, body in blocks]


def facts(cell: str) -> list[str]:
    """What no translation changes: code, links, numbers."""
    links = [
        link for link in re.findall(r'\]\((.+?)\)', cell) if '/get_started' not in link
    ]
    words = re.sub(r'\]\(.+?\)|`.+?`', '', cell)
    return re.findall(r'`.+?`', cell) + links + re.findall(r'\d+(?:[.,]\d+)*', words)


def tables(text: str) -> list[list[list[list[str]]]]:
    """Of each table the facts of each cell."""
    found = re.findall(
        r'(?:^\|.*\n)+', re.sub(r'```.*?```', '', text, flags=re.DOTALL), re.M
    )
    return [
        [[facts(cell) for cell in line.split('|')[1:-1]] for line in table.splitlines()]
        for table in found
    ]


@pytest.mark.parametrize('english, chinese', PAIRS)
def test_commands_and_code_are_equal(english, chinese):
    blocks = code(read(english))
    assert blocks and code(read(chinese)) == blocks


@pytest.mark.parametrize('english, chinese', PAIRS)
def test_tables_hold_the_same_facts(english, chinese):
    ours, theirs = tables(read(english)), tables(read(chinese))
    assert len(ours) == len(theirs)
    for first, second in zip(ours, theirs):
        assert first == second


@pytest.mark.parametrize('english, chinese', PAIRS)
def test_sections_pictures_and_links_are_equal(english, chinese):
    texts = read(english), read(chinese)
    first, second = (re.findall(r'^(#+) ', text, re.MULTILINE) for text in texts)
    assert first == second

    def targets(name, text):
        found = re.findall(r'\]\(([^)\s]+)\)', text)
        places = [
            link
            if ':' in link
            else str((ROOT / name).parent.joinpath(link.split('#')[0]).resolve())
            for link in found
        ]
        # Each links to the other, and to the page of its own language.
        return {
            re.sub(r'zh_cn|en(?=/get_started)', 'LANGUAGE', place)
            for place in places
            if not re.search(r'README(_zh-CN)?\.md$|docs/en/index\.md$', place)
        }

    assert targets(english, texts[0]) == targets(chinese, texts[1])


@pytest.mark.parametrize('name', [chinese for _, chinese in PAIRS])
def test_links_of_the_chinese_pages_lead_somewhere(name):
    for link in re.findall(r'\]\(([^)\s]+)\)', read(name)):
        if not link.startswith('http'):
            assert (ROOT / name).parent.joinpath(link.split('#')[0]).exists(), link
