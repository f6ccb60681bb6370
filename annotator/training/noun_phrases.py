"""Noun phrases of captions by a small rule set: a caption is cut at words that cannot be in one.

It need not be right about every caption, because only phrases that many captions share are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 4
PIECES = re.compile(r"[a-z]+(?:['’-][a-z]+)*|[^a-z\s]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CUTS = _words(
    # articles, numbers, pronouns
    "a an the this that these those some any all both each every another other its his her their our my your it he she"
    " it's that's there's he's she's"
    " they we you i them him who whom which what whose there here one two three four five six seven eight nine ten"
    " dozen dozens several many multiple few various numerous different no not more most much lots someone something"
    # prepositions and conjunctions
    " of in on at by with without to from for into onto over under above below behind beside besides between beneath"
    " near next through across along around against among amongst atop upon off out up down inside outside within"
    " toward towards while during before after about past per via like as than and or but nor so if when where because"
    " together away apart very too also just only still almost nearly back alone ready"
    " underneath amid amidst alongside beyond already such far unable"
    # verbs
    " is are was were be been being am has have had having do does did can could will would may might must should"
    " sits sit sat stands stand stood holds hold held rides ride rode walks walk looks look plays play eats eat flies"
    " lies lie lays lay runs run rests waits wait wears wear worn uses use makes make made gets get takes take taken"
    " goes go comes come jumps jump hits hit swings swing throws throw catches talks talk watches shows show shown sees"
    " see seen sleeps sleep leans lean hangs hang hung poses pose prepares prepare tries try attempts drives drive"
    " pulls pull pushes push carries carry cuts cut performs perform gathers gather appears appear seems seem contains"
    " contain features feature stares stare skis surfs skates smiles smile enjoys enjoy reaches reach crosses cross"
    " moves move travels travel grazes graze covers feeds feed brushes works work posed left set put puts placed kept"
    " approaches approach follows follow glides includes include leads lead relax relaxes thrown caught allow allows"
    " roam arranges arrange interact drawn bitten then though threw thru pauses peeks peels reigns sprays somebody"
)
VAGUE = _words(
    "picture pictures photo photos photograph image images view views shot scene group couple lot bunch side sides top"
    " front middle center centre background foreground end part parts pair number variety kind kinds type types way day"
    " time thing things bit next right close couple row rows edge half rest amount set piece pieces sort style distance"
)
ADJECTIVES = _words(
    "black white red green blue yellow brown pink purple gray grey tan golden gold silver dark bright colorful"
    " large small big little tall short long old young new huge tiny giant cute beautiful pretty nice empty full open"
    " clean dirty wet dry hot cold wooden metal plastic stone snowy sandy grassy rocky busy crowded modern antique"
    " vintage round square male female fresh different similar same electric fancy messy sunny cloudy rainy nearby"
    " asian english chinese japanese double single high low fluffy furry beige orange-and-white black-and-white ripe"
    " happy sad hungry lush bare blurry fake tall wide narrow deep flat outdoor indoor professional"
    " quiet rusty older stormy unique self"
)
NOUNS_IN_ING = _words(
    "building buildings ceiling clothing painting paintings string king wing wings ring rings thing morning evening"
    " wedding awning awnings railing railings frosting crossing icing pudding stuffing lighting siding topping toppings"
    " dressing bedding parking dining living swimming baking cutting baking skiing surfing sewing duckling"
    " landing spring swing sling ping fencing shopping boxing bowling washing fishing sailing racing"
)
MODIFIERS_IN_ING = _words(
    "parking dining living swimming baking cutting sewing shopping boxing bowling washing fishing sailing racing"
    " skiing surfing crossing landing"
)
NOUNS_IN_ED = _words("bed beds shed sled sleds seed weed reed bobsled moped flatbed seabed")


def noun_phrases(caption: str) -> Iterator[str]:
    """The phrases of a caption, each with its shorter ends ("brown teddy bear", "teddy bear", "bear"), lower case."""
    pieces = PIECES.findall(caption.lower())
    before: list[str] = []  # the phrase that an "of" follows
    chunk: list[str] = []
    for index, piece in enumerate([*pieces, "."]):
        if not _cuts(piece):
            chunk.append(piece)
            continue
        if piece in ("a", "an", "the") and not chunk and index and pieces[index - 1] == "of":
            continue  # "top of the hill"
        phrase = _trimmed(chunk)
        yield from _ends(phrase)
        if before and phrase and chunk[-len(phrase) :] == phrase:
            yield " ".join([before[-1], "of", *phrase[-2:]])
        before = phrase if piece == "of" and phrase and phrase == chunk[-len(phrase) :] else []
        chunk = []


def _cuts(piece: str) -> bool:
    if piece in CUTS or not piece[0].isalpha():
        return True
    if piece.endswith("ing") and len(piece) > 4:
        return piece not in NOUNS_IN_ING
    return piece.endswith("ly") and piece not in ("family", "fly", "lily", "jelly", "belly", "butterfly", "trolley")


def _trimmed(chunk: list[str]) -> list[str]:
    """Without what cannot end a phrase: adjectives, participles, words that name nothing."""
    words = list(chunk)
    while words and _cannot_end(words[-1]) and words[-2:] != ["parking", "lot"]:
        words.pop()
    return words


def _cannot_end(word: str) -> bool:
    participle = word.endswith("ed") and word not in NOUNS_IN_ED
    modifier = word in VAGUE or word in ADJECTIVES or word in MODIFIERS_IN_ING
    return participle or modifier or word.endswith("'s") or len(word) == 1


def _ends(phrase: list[str]) -> Iterator[str]:
    for length in range(1, min(len(phrase), LONGEST) + 1):
        if phrase[-length] not in VAGUE:
            yield " ".join(phrase[-length:])
