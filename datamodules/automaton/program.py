"""Python functions as lists of small steps, so that where a function stands, and all it holds there, is a plain value.

Python keeps half-finished expressions and loops where nobody can read them; here they are on a stack of our own.
"""

import ast
import inspect
import linecache
import operator
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from length_gen.tools import UserError

OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv",
             ast.Mod: "mod", ast.Pow: "pow", ast.LShift: "lshift", ast.RShift: "rshift", ast.BitOr: "or",
             ast.BitXor: "xor", ast.BitAnd: "and", ast.MatMult: "matmul"}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda item, among: item in among, ast.NotIn: lambda item, among: item not in among}


GENERATOR = "<generator>"
"""The name of a generator expression's code: it is run to its end at once, so nothing in it may change anything."""


class Unsupported(UserError):
    """An algorithm that cannot be explored; says where, what stands there, and what to write."""


@dataclass(frozen=True, slots=True)
class Step:
    """One small step; `argument` is the operation's own: a name, a place in the code, a value."""

    operation: str
    argument: Any
    line: int


@dataclass(slots=True, eq=False)
class Code:
    """A function in small steps.

    live:     for each step, which of the function's own names are still read, by it or a later one
    captured: names that a function inside uses, which always count as read
    binder:   Python's own idea of what each parameter gets in a call
    """

    name: str
    file: str
    line: int
    binder: types.CodeType
    steps: list[Step] = field(default_factory=list)
    live: list[frozenset[str]] = field(default_factory=list)
    captured: set[str] = field(default_factory=set)

    def where(self, place: int) -> str:
        """File and line of a step."""
        return f"{self.file}:{self.steps[min(place, len(self.steps) - 1)].line}"


def code_of(function: types.FunctionType) -> Code:
    """The steps of a Python function. Raises Unsupported if its source cannot be had, or has what there is no step for.
    """
    return _compiled(function.__code__)


@cache
def _compiled(code: types.CodeType) -> Code:
    file = code.co_filename
    source = "".join(linecache.getlines(file))
    if not source:
        raise Unsupported(f"the source of {code.co_qualname} ({file}) cannot be read: put it into a file")
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.Lambda)
             and _name(node) == code.co_name and _first_line(node) == code.co_firstlineno]
    if len(found) != 1:
        raise Unsupported(f"{file}:{code.co_firstlineno}: {code.co_qualname} is no plain function; write it as one")
    return _Compiler(file, found[0], None).code


def _name(node: ast.AST) -> str:
    return GENERATOR if isinstance(node, ast.GeneratorExp) else getattr(node, "name", "<lambda>")


def _first_line(node: ast.FunctionDef | ast.Lambda) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


class _Compiler:
    """Compiles one function, and those inside it, which name it as `outer`."""

    def __init__(self, file: str, node: ast.AST, outer: "_Compiler | None") -> None:
        self.outer, self.line, self.file = outer, node.lineno, file
        self.loops: list[tuple[list[int], list[int], bool]] = []  # jumps of break and continue; whether a stack is held
        self.temporary = 0
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments, self.body = node.args, node.body
        else:  # a comprehension: a function of its first iterable
            arguments, self.body = _arguments(".0"), node
        if any(isinstance(inner, ast.Yield | ast.YieldFrom | ast.Await) for inner in _own(node)):
            raise self.unsupported(node, "yield and await")
        self.code = Code(_name(node), file, node.lineno, _binder(arguments))
        declared = [inner for inner in _own(node) if isinstance(inner, ast.Nonlocal | ast.Global)]
        elsewhere = {name for inner in declared for name in inner.names}
        self.globals = {name for inner in declared if isinstance(inner, ast.Global) for name in inner.names}
        self.names = {*self.code.binder.co_varnames, *_assigned(node)} - elsewhere
        if isinstance(self.body, list):
            self.statements(self.body)
            self.emit("constant", None)
        elif isinstance(node, ast.Lambda):
            self.expression(self.body)
        else:
            self.comprehension(node)
        self.emit("return")
        self.code.live = _live(self.code)

    def emit(self, operation: str, argument: Any = None) -> int:
        self.code.steps.append(Step(operation, argument, self.line))
        return len(self.code.steps) - 1

    def land(self, *jumps: int) -> None:
        """Let these jumps lead to the next step."""
        for jump in jumps:
            self.aim(jump, len(self.code.steps))

    def aim(self, jump: int, place: int) -> None:
        """Let a jump lead to a step."""
        self.code.steps[jump] = replace(self.code.steps[jump], argument=place)

    def unsupported(self, node: ast.AST, what: str = "") -> Unsupported:
        what = what or f"this ({type(node).__name__})"
        return Unsupported(f"{self.file}:{getattr(node, 'lineno', self.line)}: an algorithm with {what} cannot be "
                           f"explored; write it with assignments, conditions, loops and calls")

    def statements(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.line = node.lineno
            method = getattr(self, f"statement_{type(node).__name__}", None)
            if method is None:
                raise self.unsupported(node)
            method(node)

    def statement_Expr(self, node: ast.Expr) -> None:
        self.expression(node.value)
        self.emit("pop")

    def statement_Pass(self, node: ast.Pass) -> None:
        pass

    statement_Nonlocal = statement_Pass

    def statement_Global(self, node: ast.Global) -> None:
        raise self.unsupported(node, "variables outside it")

    def statement_Assign(self, node: ast.Assign) -> None:
        self.expression(node.value)
        for target in node.targets[:-1]:
            self.emit("copy", 1)
            self.store(target)
        self.store(node.targets[-1])

    def statement_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.expression(node.value)
            self.store(node.target)

    def statement_AugAssign(self, node: ast.AugAssign) -> None:
        name = OPERATORS[type(node.op)]
        change = getattr(operator, f"i{name}")
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
        elif isinstance(node.target, ast.Subscript):
            self.expression(node.target.value)
            self.expression(node.target.slice)
            self.emit("copy", 2)
            self.emit("binary", operator.getitem)
        else:
            raise self.unsupported(node, "attributes that it sets")
        self.expression(node.value)
        self.emit("binary", change)
        if isinstance(node.target, ast.Name):
            self.store(node.target)
        else:
            self.emit("set_item")

    def statement_If(self, node: ast.If) -> None:
        self.expression(node.test)
        over = self.emit("jump_unless")
        self.statements(node.body)
        if node.orelse:
            end = self.emit("jump")
            self.land(over)
            self.statements(node.orelse)
            self.land(end)
        else:
            self.land(over)

    def statement_While(self, node: ast.While) -> None:
        start = len(self.code.steps)
        self.expression(node.test)
        self.loop(node, start, self.emit("jump_unless"), held=False)

    def statement_For(self, node: ast.For) -> None:
        self.expression(node.iter)
        self.emit("iterate")
        start = self.emit("next")
        self.store(node.target)
        self.loop(node, start, start, held=True)

    def loop(self, node: ast.While | ast.For, start: int, out: int, held: bool) -> None:
        self.loops.append(([], [], held))
        self.statements(node.body)
        breaks, continues, _ = self.loops.pop()
        for jump in [self.emit("jump"), *continues]:
            self.aim(jump, start)
        self.land(out)
        self.statements(node.orelse)
        self.land(*breaks)

    def statement_Break(self, node: ast.Break) -> None:
        if self.loops[-1][2]:
            self.emit("pop")
        self.loops[-1][0].append(self.emit("jump"))

    def statement_Continue(self, node: ast.Continue) -> None:
        self.loops[-1][1].append(self.emit("jump"))

    def statement_Return(self, node: ast.Return) -> None:
        self.expression(node.value or ast.Constant(None))
        self.emit("return")

    def statement_Raise(self, node: ast.Raise) -> None:
        self.expression(node.exc or ast.Constant(None))
        self.emit("raise")

    def statement_Assert(self, node: ast.Assert) -> None:
        self.expression(node.test)
        self.emit("unary", operator.not_)
        over = self.emit("jump_unless")
        self.emit("constant", None)
        self.emit("raise")
        self.land(over)

    def statement_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.decorator_list:
            raise self.unsupported(node, "decorators")
        self.function(node)
        self.emit("store", node.name)

    def function(self, node: ast.FunctionDef | ast.Lambda) -> None:
        arguments = node.args
        for default in arguments.defaults:
            self.expression(default)
        self.emit("build", (tuple, (False,) * len(arguments.defaults)))
        given = [pair for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if pair[1]]
        for parameter, value in given:
            self.emit("constant", parameter.arg)
            self.expression(value)
        self.emit("build_dict", (False,) * len(given))
        self.emit("function", _Compiler(self.file, node, self).code)

    def store(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            if target.id in self.names:
                self.emit("store", target.id)
            elif depth := self.depth(target.id):
                self.emit("store_outer", (depth, target.id))
            else:
                raise self.unsupported(target, "variables outside it")
        elif isinstance(target, ast.Tuple | ast.List):
            starred = [i for i, part in enumerate(target.elts) if isinstance(part, ast.Starred)]
            self.emit("unpack", (len(target.elts), starred[0] if starred else None))
            for part in target.elts:
                self.store(part.value if isinstance(part, ast.Starred) else part)
        elif isinstance(target, ast.Subscript):
            self.expression(target.value)
            self.expression(target.slice)
            self.emit("rotate")
            self.emit("set_item")
        else:
            raise self.unsupported(target, "attributes that it sets")

    def depth(self, name: str) -> int:
        """How many functions further out a name belongs; 0 if it does to none of them."""
        compiler, depth = self.outer, 1
        while compiler and name not in compiler.names:
            compiler, depth = compiler.outer, depth + 1
        if not compiler:
            return 0
        compiler.code.captured.add(name)
        return depth

    def load(self, name: str) -> None:
        if name in self.names:
            self.emit("load", name)
        elif name not in self.globals and (depth := self.depth(name)):
            self.emit("load_outer", (depth, name))
        else:
            self.emit("load_global", name)

    def expression(self, node: ast.expr) -> None:
        method = getattr(self, f"expression_{type(node).__name__}", None)
        if method is None:
            raise self.unsupported(node)
        method(node)

    def expression_Constant(self, node: ast.Constant) -> None:
        self.emit("constant", node.value)

    def expression_Name(self, node: ast.Name) -> None:
        self.load(node.id)

    def expression_Attribute(self, node: ast.Attribute) -> None:
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            raise self.unsupported(node, "names that begin with __")
        self.expression(node.value)
        self.emit("attribute", node.attr)

    def expression_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.expression(node.value)
        self.emit("copy", 1)
        self.store(node.target)

    def expression_BinOp(self, node: ast.BinOp) -> None:
        self.expression(node.left)
        self.expression(node.right)
        name = OPERATORS[type(node.op)]
        self.emit("binary", getattr(operator, name if hasattr(operator, name) else f"{name}_"))

    def expression_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.expression(node.operand)
        self.emit("unary", UNARY[type(node.op)])

    def expression_BoolOp(self, node: ast.BoolOp) -> None:
        jumps = []
        for value in node.values[:-1]:
            self.expression(value)
            self.emit("copy", 1)
            if isinstance(node.op, ast.Or):
                self.emit("unary", operator.not_)
            jumps.append(self.emit("jump_unless"))
            self.emit("pop")
        self.expression(node.values[-1])
        self.land(*jumps)

    def expression_Compare(self, node: ast.Compare) -> None:
        self.expression(node.left)
        jumps = []
        for i, (comparison, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            self.expression(right)
            if i == len(node.ops) - 1:
                self.emit("binary", COMPARISONS[type(comparison)])
                break
            self.temporary += 1
            between = f".{self.temporary}"
            self.names.add(between)
            self.emit("copy", 1)
            self.emit("store", between)
            self.emit("binary", COMPARISONS[type(comparison)])
            self.emit("copy", 1)
            jumps.append(self.emit("jump_unless"))
            self.emit("pop")
            self.emit("load", between)
        self.land(*jumps)

    def expression_IfExp(self, node: ast.IfExp) -> None:
        self.expression(node.test)
        over = self.emit("jump_unless")
        self.expression(node.body)
        end = self.emit("jump")
        self.land(over)
        self.expression(node.orelse)
        self.land(end)

    def expression_Call(self, node: ast.Call) -> None:
        self.expression(node.func)
        for argument in node.args:
            if isinstance(argument, ast.GeneratorExp):  # Python may not run it to its end, which makes no difference
                self.expression_ListComp(argument)
            else:
                self.expression(argument.value if isinstance(argument, ast.Starred) else argument)
        for keyword in node.keywords:
            self.expression(keyword.value)
        self.line = node.lineno
        self.emit("call", (tuple(isinstance(argument, ast.Starred) for argument in node.args),
                           tuple(keyword.arg for keyword in node.keywords)))

    def expression_Lambda(self, node: ast.Lambda) -> None:
        self.function(node)

    def expression_Subscript(self, node: ast.Subscript) -> None:
        self.expression(node.value)
        self.expression(node.slice)
        self.emit("binary", operator.getitem)

    def expression_Slice(self, node: ast.Slice) -> None:
        for part in (node.lower, node.upper, node.step):
            self.expression(part or ast.Constant(None))
        self.emit("build", (lambda parts: slice(*parts), (False,) * 3))

    def display(self, node: ast.Tuple | ast.List | ast.Set, kind: Callable) -> None:
        for part in node.elts:
            self.expression(part.value if isinstance(part, ast.Starred) else part)
        self.emit("build", (kind, tuple(isinstance(part, ast.Starred) for part in node.elts)))

    def expression_Tuple(self, node: ast.Tuple) -> None:
        self.display(node, tuple)

    def expression_List(self, node: ast.List) -> None:
        self.display(node, list)

    def expression_Set(self, node: ast.Set) -> None:
        self.display(node, set)

    def expression_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if key:
                self.expression(key)
            self.expression(value)
        self.emit("build_dict", tuple(key is None for key in node.keys))

    def expression_JoinedStr(self, node: ast.JoinedStr) -> None:
        for part in node.values:
            self.expression(part)
        self.emit("build", ("".join, (False,) * len(node.values)))

    def expression_FormattedValue(self, node: ast.FormattedValue) -> None:
        convert = {-1: lambda value: value, 115: str, 114: repr, 97: ascii}[node.conversion]
        self.expression(node.value)
        self.emit("unary", convert)
        self.expression(node.format_spec or ast.Constant(""))
        self.emit("binary", format)

    def expression_ListComp(self, node: ast.ListComp) -> None:
        """A function inside, called with the first iterable, as in Python up to 3.11 (and in effect since)."""
        if any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node)):
            raise self.unsupported(node, "an assignment in a comprehension")
        self.emit("build", (tuple, ()))
        self.emit("build_dict", ())
        self.emit("function", _Compiler(self.file, node, self).code)
        self.expression(node.generators[0].iter)
        self.emit("call", ((False,), ()))

    expression_SetComp = expression_DictComp = expression_ListComp

    def expression_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        raise self.unsupported(node, "a generator expression that is no argument")

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        kind = {ast.SetComp: set, ast.DictComp: dict}.get(type(node), list)
        self.names.add(".result")
        self.emit("build_dict" if kind is dict else "build", () if kind is dict else (kind, ()))
        self.emit("store", ".result")
        starts: list[int] = []
        for i, generator in enumerate(node.generators):
            if i:
                self.expression(generator.iter)
            else:
                self.emit("load", ".0")
            self.emit("iterate")
            starts.append(self.emit("next"))
            self.store(generator.target)
            for condition in generator.ifs:
                self.expression(condition)
                self.emit("jump_unless", starts[-1])
        self.emit("load", ".result")
        if kind is dict:
            self.expression(node.key)
            self.expression(node.value)
        else:
            self.expression(node.elt)
        self.emit("collect", kind)
        for start in reversed(starts):
            self.emit("jump", start)
            self.land(start)
        self.emit("load", ".result")
        if isinstance(node, ast.GeneratorExp):
            self.emit("unary", iter)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function but those of functions inside it."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        todo = list(node.body) if isinstance(node.body, list) else [node.body]
    else:  # of a comprehension all but the first iterable, which is the outer function's
        first = node.generators[0]
        todo = [part for part in ast.iter_child_nodes(node) if part is not first] + [first.target, *first.ifs]
    while todo:
        inner = todo.pop()
        yield inner
        if isinstance(inner, ast.FunctionDef | ast.Lambda):
            todo += [*inner.args.defaults, *filter(None, inner.args.kw_defaults)]
        elif isinstance(inner, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            todo.append(inner.generators[0].iter)
        else:
            todo += ast.iter_child_nodes(inner)


def _assigned(node: ast.AST) -> set[str]:
    """Names that a function assigns."""
    found = {inner.id for inner in _own(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
    return found | {inner.name for inner in _own(node) if isinstance(inner, ast.FunctionDef)}


def _arguments(*names: str) -> ast.arguments:
    return ast.arguments(posonlyargs=[], args=[ast.arg(name) for name in names], kwonlyargs=[], kw_defaults=[],
                         defaults=[])


def _binder(arguments: ast.arguments) -> types.CodeType:
    """A function of these parameters that returns what each got; its defaults are given when it is called."""
    def bare(parameter: ast.arg | None) -> ast.arg | None:
        return parameter and ast.arg(parameter.arg)

    plain = ast.arguments(posonlyargs=list(map(bare, arguments.posonlyargs)), args=list(map(bare, arguments.args)),
                          vararg=bare(arguments.vararg), kwonlyargs=list(map(bare, arguments.kwonlyargs)),
                          kw_defaults=[None] * len(arguments.kwonlyargs), kwarg=bare(arguments.kwarg), defaults=[])
    body = ast.Call(ast.Name("locals", ast.Load()), [], [])
    expression = ast.fix_missing_locations(ast.Expression(ast.Lambda(plain, body)))
    return next(part for part in compile(expression, "<parameters>", "eval").co_consts if inspect.iscode(part))


def _live(code: Code) -> list[frozenset[str]]:
    """For each step, the names that it or a step after it reads before they are stored again."""
    steps = code.steps
    live: list[frozenset[str]] = [frozenset()] * (len(steps) + 1)
    changed = True
    while changed:
        changed = False
        for i in reversed(range(len(steps))):
            step = steps[i]
            after = frozenset() if step.operation in ("return", "raise", "jump") else live[i + 1]
            if step.operation in ("jump", "jump_unless", "next"):
                after |= live[step.argument]
            if step.operation == "store":
                after -= {step.argument}
            elif step.operation == "load":
                after |= {step.argument}
            if after != live[i]:
                live[i], changed = after, True
    return live


def is_python(function: Any) -> bool:
    """Whether a callable is a Python function, or a method that is one."""
    return inspect.isfunction(function) or (inspect.ismethod(function) and inspect.isfunction(function.__func__))
