"""A type checker for the part of CEL that rules are written in.

The CEL library parses and runs expressions, but finds a type fault only when it evaluates the
faulty part, and takes `amount == "x"` for false. Rules are refused when they are loaded, so the
types are worked out here first, in one pass of a precedence climber that keeps the column.

The part: numbers (double or int), strings, booleans, list literals; `|| && ! == != < <= > >= in
+ - * / ?:` and parentheses; `size(x)`, `double(x)`, and on strings `startsWith`, `endsWith`,
`contains`. Arithmetic takes doubles only (CEL does not mix them with ints: `10 * avg` needs
`10.0`), comparisons either. One division is possible, by a literal: with that, and inputs within
bounds, nothing is left that could fail when a rule is evaluated.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

BOOL = "bool"
DOUBLE = "double"
INT = "int"
STRING = "string"
STRINGS = "list(string)"

_NUMBERS = (DOUBLE, INT)
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
  | (?P<int>\d+)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<name>[A-Za-z_]\w*)
  | (?P<op>\|\||&&|==|!=|<=|>=|[-+*/<>!?:()\[\],.])
  | (?P<end>\Z)
  )""",
    re.VERBOSE,
)
_PRECEDENCE = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/"), 5),
}
_MAX_DEPTH = 50
_MAX_LITERAL = 1e15
_STRING_METHODS = ("startsWith", "endsWith", "contains")


class ExpressionFault(Exception):
    """An expression is refused: why, and the column (from 1) of its text."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


def check_expression(text: str, variables: Mapping[str, str]) -> tuple[str, frozenset[str]]:
    """Return the type of an expression over typed variables, and the variables it reads.

    Raises ExpressionFault for anything that is not well typed or not in the part of CEL above.
    """
    checker = _Checker(_tokens(text), variables)
    result = checker.ternary()
    checker.expect_end()
    return result, frozenset(checker.used)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            bare = len(text) - len(text[position:].lstrip())
            raise ExpressionFault(f"unexpected {text[bare : bare + 1]!r}", bare + 1)
        kind = match.lastgroup
        tokens.append(_Token(kind, match.group(kind), match.start(kind) + 1))
        position = match.end()
    return tokens


class _Checker:
    def __init__(self, tokens: list[_Token], variables: Mapping[str, str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._variables = variables
        self.used: set[str] = set()

    def ternary(self) -> str:
        """Check `condition ? a : b`, or the binary expression that the condition is alone."""
        start = self._peek()
        condition = self._binary(1)
        if not self._accept("?"):
            return condition
        self._require(condition == BOOL, f"the condition must be bool, not {condition}", start)
        place = self._peek()
        first = self.ternary()
        self._expect(":")
        second = self.ternary()
        self._require(first == second, f"the branches are {first} and {second}", place)
        return first

    def expect_end(self) -> None:
        """Check that nothing follows."""
        token = self._peek()
        self._require(token.kind == "end", f"unexpected {token.text!r}", token)

    def _binary(self, lowest: int) -> str:
        left = self._unary()
        while (rank := _PRECEDENCE.get(self._peek().text, 0)) >= lowest:
            operator = self._take()
            divisor = self._peek()
            right = self._binary(rank + 1)
            if operator.text == "/":
                literal = divisor.kind == DOUBLE and float(divisor.text) != 0
                self._require(literal, "the divisor must be a double other than 0.0", divisor)
            left = self._apply(operator, left, right)
        return left

    def _unary(self) -> str:
        self._depth += 1
        self._require(self._depth <= _MAX_DEPTH, "nested too deeply", self._peek())
        result = self._signed()
        self._depth -= 1
        return result

    def _signed(self) -> str:
        if operator := self._accept("!"):
            operand = self._unary()
            self._require(operand == BOOL, f"! needs bool, not {operand}", operator)
            return BOOL
        if operator := self._accept("-"):
            operand = self._unary()
            self._require(operand in _NUMBERS, f"- needs a number, not {operand}", operator)
            return operand
        return self._member()

    def _member(self) -> str:
        result = self._primary()
        while self._accept("."):
            method = self._take()
            self._expect("(")
            known = method.text in _STRING_METHODS and result == STRING
            self._require(known, f"{result} has no {method.text!r}", method)
            argument = self.ternary()
            self._require(argument == STRING, f"{method.text} needs a string", method)
            self._expect(")")
            result = BOOL
        return result

    def _primary(self) -> str:
        token = self._take()
        if token.kind in _NUMBERS:
            self._require(float(token.text) <= _MAX_LITERAL, "the number is above 1e15", token)
            return token.kind
        if token.kind == STRING:
            return STRING
        if token.kind == "name":
            return self._name(token)
        if token.text == "(":
            inside = self.ternary()
            self._expect(")")
            return inside
        self._require(token.text == "[", f"unexpected {token.text or 'end'!r}", token)
        return self._list(token)

    def _name(self, token: _Token) -> str:
        if token.text in ("true", "false"):
            return BOOL
        if self._accept("("):
            argument = self.ternary()
            self._expect(")")
            return self._call(token, argument)
        kind = self._variables.get(token.text)
        if kind is None:
            raise ExpressionFault(f"unknown name {token.text!r}", token.column)
        self.used.add(token.text)
        return kind

    def _call(self, token: _Token, argument: str) -> str:
        if token.text == "size":
            sized = argument == STRING or argument.startswith("list")
            self._require(sized, f"{argument} has no size", token)
            return INT
        self._require(token.text == "double", f"unknown function {token.text!r}", token)
        self._require(argument in _NUMBERS, f"double needs a number, not {argument}", token)
        return DOUBLE

    def _list(self, start: _Token) -> str:
        kinds: set[str] = set()
        while not self._accept("]"):
            kinds.add(self.ternary())
            if not self._accept(","):
                self._expect("]")
                break
        self._require(len(kinds) == 1, "a list holds one or more values of one type", start)
        return f"list({kinds.pop()})"

    def _apply(self, operator: _Token, left: str, right: str) -> str:
        sign = operator.text
        fault = f"{sign} can't be applied to {left} and {right}"
        comparable = left == right or (left in _NUMBERS and right in _NUMBERS)
        if sign in ("||", "&&"):
            self._require(left == right == BOOL, fault, operator)
        elif sign in ("==", "!="):
            self._require(comparable, fault, operator)
        elif sign == "in":
            self._require(right == f"list({left})", fault, operator)
        elif sign in ("<", "<=", ">", ">="):
            self._require(comparable and left in (*_NUMBERS, STRING), fault, operator)
        else:
            hint = f"{fault}: it needs doubles, such as 10.0"
            self._require(left == right == DOUBLE, hint, operator)
            return DOUBLE
        return BOOL

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._require(token.kind != "end", "unexpected end", token)
        self._next += 1
        return token

    def _accept(self, text: str) -> _Token | None:
        token = self._peek()
        if token.kind not in ("op", "name") or token.text != text:
            return None
        self._next += 1
        return token

    def _expect(self, text: str) -> None:
        token = self._peek()
        self._require(self._accept(text) is not None, f"expected {text!r}", token)

    @staticmethod
    def _require(condition: bool, message: str, token: _Token) -> None:
        if not condition:
            raise ExpressionFault(message, token.column)
