"""The directive `reference`: a namespace, or one object, from its docstrings, which are Markdown with Keras's sections."""

import importlib
import inspect
import re
from pkgutil import resolve_name

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

SECTION = re.compile(r"^(Args|Returns|Raises|Class attributes|Attributes|Example|Examples|Reference|References):$")
ITEM = re.compile(r"^ {4}(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): ?(.*)$")


def markdown(docstring: str) -> list[str]:
    """A docstring's lines: sections get bold headings, their entries bullets, and doctests fences."""
    lines, section, in_doctest, in_fence = [], "", False, False
    for line in docstring.splitlines():
        if line.startswith("```"):
            in_fence = not in_fence
        if in_doctest and not line.strip():
            lines.append("```")
            in_doctest = False
        if in_fence or in_doctest:
            lines.append(line)
        elif line.startswith(">>>"):
            lines += ["", "```pycon", line]
            in_doctest = True
        elif found := SECTION.match(line):
            section = found[1]
            lines += [f"**{section}**", ""]
        elif line and not line.startswith(" "):
            section = ""
            lines.append(line)
        elif section and section not in ("Returns", "Example", "Examples") and (found := ITEM.match(line)):
            lines.append(f"- {', '.join(f'`{name}`' for name in found[1].split(', '))}: {found[2]}")
        else:  # the rest of an entry, or of a section without entries
            lines.append(f"  {line.strip()}" if section and section != "Returns" else line.strip() if section else line)
    return [*lines, "```"] if in_doctest else lines


def signature(thing) -> str:
    """Names and defaults; what is taken is said by the docstring."""
    if isinstance(thing, property):
        return ""
    found = inspect.signature(thing)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty) for name, each in found.parameters.items() if name not in ("self", "cls")
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def described(module: str, name: str, thing, methods: list[str]) -> list[str]:
    kind = "class" if inspect.isclass(thing) else "function"
    lines = ["``````{py:" + kind + "} " + name + signature(thing), f":module: {module}", "", *markdown(inspect.getdoc(thing) or ""), ""]
    for method in methods:
        owner, _, attribute = method.partition(".")
        if owner != name:
            continue
        member = inspect.getattr_static(thing, attribute)
        kind = next((kind for type_, kind in ((classmethod, "classmethod"), (property, "property")) if isinstance(member, type_)), "method")
        shown = member if kind == "property" else getattr(thing, attribute)
        doc = inspect.getdoc(member) or inspect.getdoc(shown) or ""
        lines += ["`````{py:" + kind.replace("classmethod", "method") + "} " + method + signature(shown), f":module: {module}"]
        lines += [":classmethod:"] * (kind == "classmethod") + ["", *markdown(doc), "`````", ""]
    return [*lines, "``````", ""]


class Reference(SphinxDirective):
    """`{reference} keras_reg.ops` describes every public name there, `{reference} module.Name` one; `:methods:` lists those to describe."""

    required_arguments = 1
    option_spec = {"methods": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        (path,) = self.arguments
        methods = self.options.get("methods", "").split()
        thing = resolve_name(path)
        if inspect.ismodule(thing):
            module = importlib.import_module(path)
            things = {name: getattr(module, name) for name in module.__all__}
            things = {name: thing for name, thing in things.items() if thing.__module__.startswith("keras_reg")}
        else:
            path, _, name = path.rpartition(".")
            things = {name: thing}
        unknown = [method for method in methods if method.partition(".")[0] not in things]
        if unknown:
            raise self.error(f"reference: no such class in {path}: {unknown}")
        lines = [line for name, thing in things.items() for line in described(path, name, thing, methods)]
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, source=path), 0, node, match_titles=False)
        return node.children
