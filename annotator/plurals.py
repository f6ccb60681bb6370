"""The singular of an English noun, by rules for its ending and short tables of what the rules get wrong.

The tables hold what photos show and what describes them, not the whole language.
"""

from __future__ import annotations


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


#: Words that look like the plural of another word and are not.
WHOLE_WORDS = _words(
    "abdomen achilles acumen adidas afterwards alas albumen alias alps always amen andes aries arkansas asbestos",
    "athens athletics atlas bahamas barbados barracks bellows bias biceps billiards binoculars biogas bitumen",
    "bordeaux brussels canvas carmen caries chaos charles christmas clothes corps cosmos crossroads cyclamen dallas",
    "diabetes dolmen douglas downstairs dregs dungarees electronics ethos eyeglasses forceps galapagos gallows glasses",
    "goggles gymnastics hades headphones headquarters hercules herpes honduras hymen indoors james jeans jonas",
    "kansas knickers kudos laos leggings lens lumen madras mars mathematics maths means measles mercedes",
    "molasses moses mumps naples netherlands news nicholas nowadays omen ourselves outdoors outskirts overalls",
    "overseas pajamas pampas pancreas panties pants pathos perhaps philippines physics pilates pliers politics",
    "pumice pyjamas rabies ramen regimen rhinoceros rumen sassafras scabies scissors semen series shambles shears",
    "shorts sideways slacks sometimes species specimen stamen suds summons sunglasses sweatpants sweepstakes",
    "texas thames thanks themselves thermos thomas tights tongs towards triceps trousers tweezers underpants",
    "undies upstairs vegas versailles wales whereabouts whereas xmas yemen yourselves",
)

#: Plurals that lose no more than their s, where the rules would take more, or nothing.
ONLY_AN_S = _words(
    "aggies aunties aussies beanies birdies bookies booties bowties brownies budgies calories collies cookies",
    "cuties dies dogies eyries foodies genies goalies groupies hippies hoagies homies hoodies hotties indies",
    "junkies laddies lassies lies magpies meanies menageries movies neckties newbies nighties oldies onesies",
    "patisseries pies pixies potpies prairies quickies rookies rotisseries selfies smoothies softies sorties",
    "talkies techies ties townies veggies walkies yorkies yuppies zombies",
    "aloes backhoes canoes does floes foes hoes mistletoes oboes roes sloes throes tiptoes toes woes",
    "aches apaches attaches avalanches backaches bellyaches brioches caches cartouches ceviches cloches creches",
    "crèches douches earaches fiches ganaches gouaches headaches heartaches microfiches moustaches mustaches",
    "niches panaches pastiches porsches psyches quiches stomachaches toothaches tranches",
    "axes battleaxes pickaxes poleaxes",
    "bouillabaisses crevasses demitasses finesses impasses mousses posses wrasses",
    "abuses accuses chanteuses excuses fuses hypotenuses masseuses muses recluses refuses ruses uses",
    "bayous caribous cpus emus gnus gpus gurus haikus hindus kudus menus milieus tutus zebus",
    "alibis bonsais broccolis calamaris cannolis chapatis chilis corgis emojis ferraris graffitis israelis",
    "jacuzzis kiwis macaronis nazis okapis origamis pakistanis pepperonis pierogis rabbis raviolis rotis safaris",
    "salamis samurais saris semis spaghettis sushis taxis tipis tsunamis wasabis yetis yogis",
    "ads cds pcs rvs tvs",
)

#: Plurals that lose their es, where the rules would take the s.
ONLY_ES = _words(
    "aliases amaryllises atlases biases canvases christmases chrysalises clematises clitorises cosmoses gases",
    "ibises irises lenses mantises metropolises pancreases pelvises penises portcullises rhinoceroses thermoses",
    "topazes trellises",
)

#: Plurals that no rule brings back.
IRREGULAR = {
    "alumni": "alumnus",
    "antennae": "antenna",
    "appendices": "appendix",
    "bacteria": "bacterium",
    "cacti": "cactus",
    "calves": "calf",
    "chilies": "chili",
    "chillies": "chilli",
    "crises": "crisis",
    "criteria": "criterion",
    "diagnoses": "diagnosis",
    "dwarves": "dwarf",
    "elves": "elf",
    "fezzes": "fez",
    "formulae": "formula",
    "fungi": "fungus",
    "halves": "half",
    "handkerchieves": "handkerchief",
    "hippopotami": "hippopotamus",
    "hooves": "hoof",
    "indices": "index",
    "larvae": "larva",
    "lice": "louse",
    "lives": "life",
    "matrices": "matrix",
    "men": "man",
    "nebulae": "nebula",
    "nuclei": "nucleus",
    "oases": "oasis",
    "octopi": "octopus",
    "oxen": "ox",
    "phenomena": "phenomenon",
    "pierogies": "pierogi",
    "quizzes": "quiz",
    "scarves": "scarf",
    "sheaves": "sheaf",
    "synopses": "synopsis",
    "thieves": "thief",
    "vertebrae": "vertebra",
    "vertices": "vertex",
    "wharves": "wharf",
    "whizzes": "whiz",
}

#: Ending -> what stands there in the singular. The longest that a word has is its rule.
ENDINGS = {
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "shelves": "shelf",
    "shoes": "shoe",
    "wives": "wife",
    "wolves": "wolf",
    "theses": "thesis",
    "lyses": "lysis",
    "ouses": "ouse",
    "auses": "ause",
    "uses": "us",
    "sses": "ss",
    "shes": "sh",
    "ches": "ch",
    "xes": "x",
    "zzes": "zz",
    "tzes": "tz",
    "ies": "y",
    "oes": "o",
    "eaus": "eau",
    "inis": "ini",
    "kis": "ki",
    "ss": "ss",
    "us": "us",
    "is": "is",
    "s": "",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "teeth": "tooth",
    "eaux": "eau",
}
LONGEST_ENDING = max(map(len, ENDINGS))


def singular(word: str) -> str:
    """Returns the singular of an English noun in lower case, and a word that is no plural as it is.

    Of a word with hyphens only what follows the last is looked up.
    """
    last = word[word.rfind("-") + 1 :]
    if last in WHOLE_WORDS:
        return word
    if last in IRREGULAR:
        return word.removesuffix(last) + IRREGULAR[last]
    if last in ONLY_AN_S:
        return word[:-1]
    if last in ONLY_ES:
        return word[:-2]
    if len(word) <= 3:
        return word
    for length in range(LONGEST_ENDING, 0, -1):
        if (ending := word[-length:]) in ENDINGS:
            return word.removesuffix(ending) + ENDINGS[ending]
    return word
