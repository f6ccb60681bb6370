"""Singulars of English nouns, as dictionaries have them, by the ending of the plural."""

from __future__ import annotations

import pytest

from annotator.open_labels import normalise
from annotator.plurals import ENDINGS, IRREGULAR, ONLY_AN_S, ONLY_ES, WHOLE_WORDS, singular

#: Plural and singular in turn.
PLURALS = {
    "uses": """
        viruses virus walruses walrus octopuses octopus buses bus minibuses minibus cactuses cactus campuses campus
        platypuses platypus hippopotamuses hippopotamus crocuses crocus lotuses lotus hibiscuses hibiscus bonuses bonus
        geniuses genius statuses status circuses circus choruses chorus papyruses papyrus abacuses abacus
        houses house greenhouses greenhouse lighthouses lighthouse blouses blouse mouses mouse spouses spouse
        causes cause pauses pause clauses clause fuses fuse muses muse excuses excuse masseuses masseuse
    """,
    "oes": """
        mosquitoes mosquito volcanoes volcano potatoes potato tomatoes tomato heroes hero echoes echo mangoes mango
        buffaloes buffalo dominoes domino tornadoes tornado torpedoes torpedo flamingoes flamingo avocadoes avocado
        mottoes motto superheroes superhero shoes shoe horseshoes horseshoe snowshoes snowshoe toes toe tiptoes tiptoe
        canoes canoe oboes oboe foes foe does doe hoes hoe aloes aloe floes floe
    """,
    "os": """
        photos photo pianos piano zoos zoo videos video kangaroos kangaroo flamingos flamingo radios radio logos logo
        tacos taco rhinos rhino kimonos kimono bamboos bamboo
    """,
    "ies": """
        zombies zombie selfies selfie smoothies smoothie brownies brownie cookies cookie hoodies hoodie movies movie
        beanies beanie magpies magpie genies genie rookies rookie pixies pixie onesies onesie prairies prairie
        veggies veggie ties tie bowties bowtie pies pie lies lie berries berry cherries cherry strawberries strawberry
        puppies puppy bunnies bunny ponies pony babies baby ladies lady cities city parties party flies fly
        butterflies butterfly skies sky fries fry spies spy daisies daisy lilies lily trophies trophy bakeries bakery
        batteries battery cranberries cranberry jellies jelly
    """,
    "ves": """
        wives wife housewives housewife midwives midwife knives knife penknives penknife lives life thieves thief
        leaves leaf loaves loaf meatloaves meatloaf calves calf halves half hooves hoof elves elf shelves shelf
        bookshelves bookshelf wolves wolf werewolves werewolf scarves scarf dwarves dwarf wharves wharf
        olives olive gloves glove sleeves sleeve doves dove waves wave caves cave stoves stove valves valve hives hive
        beehives beehive graves grave slaves slave sieves sieve groves grove curves curve cloves clove chives chive
        nerves nerve grooves groove microwaves microwave
    """,
    "ches, shes": """
        quiches quiche caches cache headaches headache toothaches toothache aches ache mustaches mustache
        moustaches moustache avalanches avalanche niches niche brioches brioche creches creche
        benches bench beaches beach peaches peach churches church watches watch sandwiches sandwich ostriches ostrich
        couches couch branches branch coaches coach cockroaches cockroach torches torch leeches leech brooches brooch
        dishes dish brushes brush toothbrushes toothbrush bushes bush radishes radish lashes lash galoshes galosh
    """,
    "xes": """
        axes axe pickaxes pickaxe boxes box mailboxes mailbox foxes fox taxes tax waxes wax mixes mix suffixes suffix
        sphinxes sphinx lynxes lynx complexes complex
    """,
    "ses": """
        vases vase roses rose noses nose purses purse cases case suitcases suitcase bookcases bookcase staircases
        staircase lenses lens horses horse seahorses seahorse nurses nurse nooses noose mongooses mongoose hoses hose
        cheeses cheese tortoises tortoise porpoises porpoise phrases phrase databases database bases base courses
        course eclipses eclipse corpses corpse sunrises sunrise cruises cruise chaises chaise licenses license
        canvases canvas gases gas atlases atlas irises iris trellises trellis rhinoceroses rhinoceros thermoses thermos
        glimpses glimpse universes universe papooses papoose
        dresses dress grasses grass mattresses mattress compasses compass waitresses waitress crosses cross
        classes class bosses boss hourglasses hourglass mousses mousse crevasses crevasse
        oases oasis crises crisis hypotheses hypothesis prostheses prosthesis analyses analysis diagnoses diagnosis
    """,
    "zes": """
        sizes size prizes prize mazes maze breezes breeze bronzes bronze trapezes trapeze quizzes quiz fezzes fez
        waltzes waltz buzzes buzz topazes topaz
    """,
    "us and is": """
        menus menu emus emu gnus gnu gurus guru tutus tutu plateaus plateau bureaus bureau chateaus chateau
        skis ski taxis taxi kiwis kiwi bikinis bikini zucchinis zucchini martinis martini khakis khaki safaris safari
        rabbis rabbi yetis yeti samurais samurai
    """,
    "s": """
        dogs dog cats cat trees tree eyes eye keys key monkeys monkey turkeys turkey bridges bridge oranges orange
        pages page slices slice faces face apples apple bottles bottle bananas banana planes plane statues statue
        bees bee lambs lamb locks lock jets jet legs leg eggs egg humans human caravans caravan garages garage
        blondes blonde cafés café pancakes pancake tvs tv suvs suv t-shirts t-shirt walkie-talkies walkie-talkie
        x-rays x-ray flip-flops flip-flop
    """,
    "irregular": """
        men man women woman firemen fireman snowmen snowman policewomen policewoman children child grandchildren
        grandchild people person salespeople salesperson feet foot teeth tooth geese goose mice mouse dormice dormouse
        lice louse oxen ox cacti cactus fungi fungus octopi octopus larvae larva antennae antenna vertebrae vertebra
        criteria criterion matrices matrix vertices vertex plateaux plateau
    """,
}

NO_PLURALS = """
    bus gas canvas cactus jeans lens tennis grass iris chess asparagus hummus compass virus walrus octopus platypus
    glass dress mattress cross moss mass class boss kiss albatross fortress waitress princess harness mess swiss
    atlas pancreas bias alias christmas asbestos rhinoceros thermos cosmos chaos
    axis basis oasis crisis thesis analysis cannabis ibis mantis pelvis trellis clematis metropolis debris chassis
    bonus circus campus crocus hibiscus eucalyptus papyrus citrus fungus hippopotamus lotus status genius couscous
    series species scissors pants trousers shorts pliers tweezers binoculars goggles sunglasses headphones pajamas
    news mathematics physics gymnastics measles rabies billiards barracks headquarters gallows clothes molasses
    always upstairs outdoors perhaps yes this his was
    dog horse house cheese potato shoe tree sky zombie movie axe quiche headache canoe volcano mosquito wife thief
    omen specimen abdomen ramen regimen man woman child person pumice mouse goose foot bordeaux fox box
""".split()  # noqa: SIM905

PAIRS = [
    (plural, single)
    for family in PLURALS.values()
    for plural, single in zip(family.split()[::2], family.split()[1::2], strict=True)
]


@pytest.mark.parametrize("family", PLURALS)
def test_plurals(family: str) -> None:
    words = PLURALS[family].split()
    plurals, expected = words[::2], words[1::2]
    assert [(plural, singular(plural)) for plural in plurals] == list(zip(plurals, expected, strict=True))


def test_words_that_are_no_plurals() -> None:
    assert [(word, singular(word)) for word in NO_PLURALS] == [(word, word) for word in NO_PLURALS]


def test_a_singular_has_no_other_singular() -> None:
    for plural, single in PAIRS:
        assert singular(single) == single
        assert normalise(f"The big {plural}.") == normalise(f"a big {single}") == f"big {single}"
        assert normalise(f"big {single}") == f"big {single}"


def test_each_exception_is_one_and_stands_in_one_table() -> None:
    """An entry that the rules bring to the same result is dead weight, and hides that the rules do without it."""
    tables = [WHOLE_WORDS, ONLY_AN_S, ONLY_ES, frozenset(IRREGULAR)]
    assert sum(map(len, tables)) == len(frozenset().union(*tables))
    by_table = {
        **{word: word for word in WHOLE_WORDS},
        **{word: word[:-1] for word in ONLY_AN_S},
        **{word: word[:-2] for word in ONLY_ES},
        **IRREGULAR,
    }
    assert [word for word, single in by_table.items() if by_rules(word) == single] == []
    assert [single for single in by_table.values() if singular(single) != single] == []


def by_rules(word: str) -> str:
    if len(word) <= 3:
        return word
    ending = max(filter(word.endswith, ENDINGS), key=len, default="")
    return word.removesuffix(ending) + ENDINGS.get(ending, "")


def test_the_lists_are_long_enough_to_mean_something() -> None:
    assert len({plural for plural, _ in PAIRS}) >= 250
    assert len(set(NO_PLURALS)) >= 60
