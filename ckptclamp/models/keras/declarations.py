"""Every constraint that a Keras model's config declares, and the tensors that it governs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.errors import Notice, Reason, printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.candidates import Candidates
from ckptclamp.models.keras.constraints import (
    ParsedConstraint,
    is_serialised_constraint,
    names_a_builtin,
)
from ckptclamp.models.keras.layers.packages import known_constraint
from ckptclamp.models.keras.layouts import NAME_IT, Bound, Unbound
from ckptclamp.models.keras.quantisation import is_quantised
from ckptclamp.models.keras.tree import Layer, is_layer, short_name

if TYPE_CHECKING:
    from ckptclamp.models.keras.layers.lattice import Implied
    from ckptclamp.models.keras.model import BoundModel


@frozen
class Declaration:
    """One ``*_constraint`` of one layer, and the tensors that it governs.

    `layer` is the path of layer names in the config (``outer/dense``), `argument` the constructor's
    argument (``kernel_constraint``), `serialised` the constraint as it stands in the config.
    `tensors` are full tensor names; `labels` the friendly name of each (``dense/kernel``), ``None``
    where another tensor has the same. When `not_evaluated` holds a reason there are no tensors to
    judge, and `hint` says what would help.
    A declaration that is known to govern nothing has neither tensors nor a reason, but a notice.
    `candidates` are then the tensors among which those are that it governs, as far as that is known.
    `package` is whose the layer is, and `implied` what its code makes of a setting.
    """

    layer: str
    layer_class: str
    argument: str
    serialised: Mapping[str, Any] | str
    tensors: tuple[str, ...] = ()
    labels: tuple[str | None, ...] = ()
    not_evaluated: Reason | None = None
    hint: str | None = None
    notices: tuple[Notice, ...] = ()
    candidates: tuple[str, ...] = ()
    package: str | None = None
    implied: ParsedConstraint | None = None

    @property
    def parsed(self) -> ParsedConstraint:
        """What the constraint is, as far as its config tells."""
        return self.implied or known_constraint(self.serialised, self.package)


def find_declarations(bound: BoundModel) -> Iterator[Declaration]:
    """One declaration for each layer and ``*_constraint`` of the config that is not null.

    Every such argument is answered for: with the exact tensors, with a reason why they cannot be
    told, or with a notice that it governs nothing. A file without a config declares nothing.
    """
    return _Declarations(bound).all()


def undeclared_notices(layers: Sequence[Layer], told: Collection[str] = ()) -> tuple[Notice, ...]:
    """Warn of what a config with these layers cannot tell: constraints that a user's code may set.

    Classes of which somebody has `told` what they are like, or that they are unconstrained, are not
    warned of; one that is not in the config is.
    """
    if not layers:
        return ()
    root = layers[0]
    accepted = {short_name(name): name for name in told}
    there = {short_name(layer.class_name) for layer in layers if layer.custom or layer.by_word}
    there.add(short_name(root.class_name))
    notices = tuple(
        Notice("no-such-layer", f"custom_layers: no layer is a {printable(accepted[name])}")
        for name in sorted(accepted.keys() - there)
    )
    own = {layer.class_name for layer in layers if layer.custom and layer.container is None}
    own = {name for name in own if short_name(name) not in accepted}
    if root.container is None and short_name(root.class_name) not in accepted:
        code, message = (
            "config-lists-no-layers",
            f"{printable(root.class_name)} is a model of its own code: its config lists no "
            "layers, so constraints that the code sets cannot be seen",
        )
    elif own:
        shown = ", ".join(printable(name) for name in sorted(own)[:5])
        code, message = (
            "custom-layers",
            f"constraints that the code of {len(own)} custom layer class(es) sets ({shown}) "
            "cannot be seen in a config",
        )
    else:
        return notices
    hint = "write rules for them, or say `unconstrained` of the class under custom_layers in a spec"
    return (*notices, Notice(code, message, hint))


_TELL_OR_NAME: Final = (
    "say under custom_layers in a spec what it is like, or write a rule that names the tensor"
)


class _Declarations:
    """The layers of one config, with those that were made from the config of another."""

    def __init__(self, bound: BoundModel) -> None:
        self.bound = bound
        self.candidates = Candidates(bound)
        self.copies: dict[int, list[Layer]] = {}
        for layer in bound.layers:
            if layer.copy_of is not None:
                self.copies.setdefault(layer.copy_of, []).append(layer)

    def all(self) -> Iterator[Declaration]:
        for layer in self.bound.layers:
            if layer.copy_of is None:
                found = [self._declaration(layer, *item) for item in layer.declared.items()]
                found += [self._implied(layer, implied) for implied in layer.implied]
                found += _unread_constraints(layer)
                yield from (self._with_candidates(layer, declaration) for declaration in found)

    def _with_candidates(self, layer: Layer, declaration: Declaration) -> Declaration:
        if declaration.not_evaluated is None:
            return declaration
        found = self.candidates.of(layer, declaration.argument)
        return replace(declaration, candidates=found)

    def _implied(self, layer: Layer, implied: Implied) -> Declaration:
        constraint = implied.constraint
        declaration = replace(
            _declared(layer, implied.setting, constraint.builtin or implied.setting),
            implied=constraint,
        )
        governed = [i for i, v in enumerate(layer.variables) if v.name == implied.variable]
        found = self._on_tensors(declaration, layer, governed)
        if constraint.opaque is None or not found.tensors:
            return found
        opaque = Reason("unknown-constraint", constraint.opaque)
        return replace(found, not_evaluated=opaque, hint=NAME_IT)

    def _declaration(self, layer: Layer, argument: str, serialised: object) -> Declaration:
        written = serialised if isinstance(serialised, (str, Mapping)) else str(serialised)
        declaration = _declared(layer, argument, written)
        if not layer.known:
            return replace(
                declaration,
                not_evaluated=Reason(
                    "unknown-layer",
                    f"{printable(layer.class_name)} is no layer of Keras' own, so which of "
                    "its weights this constrains is known to its code alone",
                ),
                hint=_TELL_OR_NAME,
            )
        governed = [i for i, v in enumerate(layer.variables) if v.argument == argument]
        if not governed and layer.told:
            return replace(
                declaration,
                not_evaluated=Reason(
                    "unknown-layer",
                    f"custom_layers names no weight of {printable(layer.class_name)} for it "
                    "that is called so in this layout",
                ),
                hint="a weight is called by its name, as kernel, in the legacy layout, and vars/0 in "
                "the other",
            )
        if not governed:
            return replace(declaration, notices=(_applies_to_nothing(layer, argument),))
        return self._on_tensors(declaration, layer, governed)

    def _on_tensors(
        self, declaration: Declaration, layer: Layer, governed: list[int]
    ) -> Declaration:
        names: list[str] = []
        labels: list[str | None] = []
        for member in (layer, *self.copies.get(layer.key, ())):
            binding = self.bound.bindings[member.key]
            if isinstance(binding, Unbound):
                lacking = Reason("not-in-the-file", binding.reason)
                return replace(declaration, not_evaluated=lacking, hint=binding.hint)
            for index in governed:
                found = (*binding.tensors[index], *self._mirror(member, index))
                names += found
                label = member.label(member.variables[index])
                labels += [label if name in self.bound.distinct_labels else None for name in found]
        notices = tuple(self._notices(layer, names))
        own = self.bound.bindings[layer.key]
        if isinstance(own, Bound) and own.renamed:
            notices += (_renamed(layer, names),)
        mode = layer.variables[governed[0]].quantised or self._integers(names)
        if mode is not None:
            notices += (_dropped(layer, declaration.argument, mode),)
        unique = dict(zip(names, labels, strict=True))
        return replace(
            declaration, tensors=tuple(unique), labels=tuple(unique.values()), notices=notices
        )

    def _mirror(self, layer: Layer, index: int) -> tuple[str, ...]:
        """The copy of a wrapped layer's first variable that its wrapper keeps."""
        wrapper = self.bound.mirrors.get(layer.key)
        if wrapper is None or index != 0:
            return ()
        return next((names for _, names in self.bound.stored(wrapper)), ())

    def _integers(self, names: list[str]) -> str | None:
        """The dtype of the first tensor that holds no fractions."""
        tensors = (self.bound.tensors[name] for name in names)
        return next((str(tensor.dtype) for tensor in tensors if is_quantised(tensor)), None)

    def _notices(self, layer: Layer, names: list[str]) -> Iterator[Notice]:
        path = printable("/".join(layer.path))
        if layer.frozen:
            yield Notice(
                "never-ran",
                f"{path} was frozen when it was saved: Keras constrains no frozen layer",
                informational=True,
            )
        earlier = self.bound.repeats.first(layer)
        if earlier is None:
            return
        other = printable("/".join(earlier.path))
        if self.bound.bindings[layer.key] == self.bound.bindings[earlier.key]:
            yield Notice(
                "shared-twice",
                f"{path} is the same layer as {other}, and is saved once",
                informational=True,
            )
        elif self.bound.legacy:
            yield Notice(
                "shared-twice",
                f"{path} has the name and settings of {other}: if they are one layer, the file holds "
                "it twice, and Keras loads the last copy",
                tensor=names[0],
                informational=True,
            )


def _declared(layer: Layer, argument: str, serialised: Mapping[str, Any] | str) -> Declaration:
    path = "/".join(layer.path) or layer.name or layer.class_name
    return Declaration(path, layer.class_name, argument, serialised, package=layer.package)


def _renamed(layer: Layer, names: Sequence[str]) -> Notice:
    return Notice(
        "decided-by-order",
        f"the file calls the weights of {printable('/'.join(layer.path))} otherwise; they are told by "
        "their order, as Keras tells them when it loads the file",
        tensor=names[0] if names else None,
        informational=True,
    )


def _applies_to_nothing(layer: Layer, argument: str) -> Notice:
    return Notice(
        "governs-nothing",
        f"{printable('/'.join(layer.path))} declares {printable(argument)}, but a "
        f"{printable(layer.class_name)} with its settings has no such weight",
        "remove the argument, or constrain the weight that was meant",
    )


def _dropped(layer: Layer, argument: str, mode: str) -> Notice:
    return Notice(
        "never-ran",
        f"{printable('/'.join(layer.path))} was quantised to {printable(mode)}, and Keras dropped its "
        f"{printable(argument)}; what is judged is the weight that the integers stand for",
        informational=True,
    )


def _unread_constraints(layer: Layer) -> Iterator[Declaration]:
    """Declarations, all not evaluated, for what the tree of layers does not reach in `layer`."""
    for key in layer.odd:
        yield replace(
            _declared(layer, key, "unknown"),
            not_evaluated=Reason(
                "unknown-layer",
                f"{key} is no serialised layer, so what it declares cannot be known",
            ),
            hint=NAME_IT,
        )
    for key, value in layer.unread:
        for argument, serialised, within in _constraints(key, value):
            what = printable(argument)
            if within:
                what = f"{what.rpartition('.')[2]} of {printable(' in '.join(within[::-1]), limit=500)}"
            yield replace(
                _declared(layer, argument, serialised),
                not_evaluated=Reason(
                    "unknown-layer",
                    f"{what} is a setting of {printable(layer.class_name)} that only its code can read",
                ),
                hint=NAME_IT,
            )


_Within = tuple[str, ...]
"""The layers around a setting, each as ``the Dense 'out'``."""


def _constraints(key: str, value: Any) -> Iterator[tuple[str, Any, _Within]]:  # noqa: ANN401 - untrusted JSON
    """Every serialised constraint at or below a setting, with the path of keys and layers to it."""
    pending: list[tuple[str, Any, bool, _Within]] = [(key, value, _describes(key), ())]
    while pending:
        path, item, told, within = pending.pop()
        if _is_constraint(path, item, told):
            yield path, item, within
        elif isinstance(item, Mapping):
            around = (*within, *_called(item))
            pending.extend(
                (f"{path}.{k}", v, told or _describes(str(k)), around) for k, v in item.items()
            )
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", v, told, within) for i, v in enumerate(item))


def _called(item: Mapping[str, Any]) -> _Within:
    """What a serialised layer is called, if `item` is one."""
    config = item.get("config")
    name = config.get("name") if isinstance(config, Mapping) else None
    if not (is_layer(item) and isinstance(name, str)):
        return ()
    return (f"the {short_name(item['class_name'])} {name!r}",)


def _describes(key: str) -> bool:
    """Whether a key says that constraints stand under it."""
    return key.lower().endswith(("constraint", "constraints"))


def _is_constraint(path: str, item: object, told: bool) -> bool:
    """Whether `item` is a constraint, by its form or because it stands where one must.

    Under a key that tells (`told`), what has a class is one, and so is a string that names a
    built-in one. The very value of such a key, or an element of a list there, is one whatever it is
    called; ``constraints`` may be a mapping of them, too.
    """
    if is_serialised_constraint(item):
        return True
    if not (told and isinstance(item, (str, Mapping))):
        return False
    element = re.sub(r"(\[\d+\])+$", "", path)
    is_value = _describes(element)
    if isinstance(item, str):
        return is_value or names_a_builtin(item)
    is_many = element == path and path.lower().endswith("s")
    return "class_name" in item or (is_value and not is_many)
