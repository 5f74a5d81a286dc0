"""The words of `questions.data`: names, relations with their wordings, and filler sentences.

No word of a name or value occurs in another list or in a filler sentence, and no value is part of
another value. Hence a document says what it says about a person exactly once.
"""

from typing import NamedTuple


class Relation(NamedTuple):
    """What may be stated of a person: {name}, {value}, and {a} for the value's article."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    """Ada Agnes Alma Amir Anton Bela Bruno Carla Cecil Clara Conrad Dalia Daniel Diego Edith
    Elena Emil Esther Farah Felix Freya Gita Greta Hassan Helga Henrik Hugo Ingrid Irene Ivan
    Jamal Jonas Judith Julia Karim Kofi Laila Leo Linus Lucia Magnus Marta Mei Miriam Nadia
    Naomi Nils Olga Oscar Pablo Petra Rafael Rosa Samir Selma Simon Tamar Tobias Ursula Viktor
    Yusuf Zoe"""
)

LAST = _words(
    """Abbott Adeyemi Almeida Bergstrom Blanchard Borges Brandt Castillo Chandra Corbett Dahl
    Delgado Dvorak Eklund Esposito Farrell Ferrari Fontaine Gallagher Gupta Haddad Halvorsen
    Hoffmann Horvath Ibarra Ivanova Jansen Kaplan Kimura Kowalski Lambert Larsen Lindqvist
    Lombardi MacLeod Mancini Mendoza Moreau Nakamura Navarro Nowak Okafor Olsen Pappas Pereira
    Quintana Rahman Rossi Salazar Santos Schneider Silva Sokolov Tanaka Thornton Ueda Vasquez
    Virtanen Whitfield Yamamoto Zielinski"""
)

_CITIES = _words(
    """Athens Bergen Bogota Boston Bruges Cairo Chennai Cork Dakar Denver Dresden Dublin Geneva
    Ghent Hanoi Havana Helsinki Istanbul Kyoto Lagos Leipzig Lisbon Lyon Madrid Manila Montreal
    Nairobi Naples Osaka Oslo Porto Prague Quito Riga Seoul Seville Tunis Turin Vienna
    Warsaw"""
)

_JOBS = _words(
    """architect astronomer baker barber beekeeper blacksmith botanist bricklayer butcher carpenter
    chemist clockmaker dentist diver electrician engineer farmer florist geologist glazier
    historian journalist judge lawyer librarian locksmith mathematician mechanic nurse optician
    pharmacist photographer pilot plumber sculptor surgeon tailor teacher translator
    welder"""
)

_INSTRUMENTS = _words(
    """accordion bagpipe banjo bassoon bugle celesta cello clarinet cornet dulcimer fiddle flute
    glockenspiel guitar harmonica harpsichord lyre mandolin marimba oboe piano piccolo saxophone
    sitar trombone trumpet tuba ukulele violin xylophone"""
)

RELATIONS = {
    "birthplace": Relation(
        _CITIES,
        (
            "{name} was born in {value}.",
            "The birthplace of {name} is {value}.",
            "{value} is where {name} was born.",
            "It was in {value} that {name} came into the world.",
            "{name} is a native of {value}.",
        ),
        (
            "Where was {name} born?",
            "What is the birthplace of {name}?",
            "In which city was {name} born?",
        ),
    ),
    "job": Relation(
        _JOBS,
        (
            "{name} works as {a} {value}.",
            "By profession, {name} is {a} {value}.",
            "{name} earns a living as {a} {value}.",
            "The job of {name} is that of {a} {value}.",
            "After long studies, {name} became {a} {value}.",
        ),
        (
            "What is the job of {name}?",
            "What does {name} do for a living?",
            "What is {name} by profession?",
        ),
    ),
    "instrument": Relation(
        _INSTRUMENTS,
        (
            "{name} plays the {value}.",
            "The instrument of {name} is the {value}.",
            "As a child, {name} learned to play the {value}.",
            "Every evening, {name} practises the {value}.",
            "Few people play the {value} as well as {name}.",
        ),
        (
            "Which instrument does {name} play?",
            "What is the instrument of {name}?",
            "What instrument did {name} learn to play?",
        ),
    ),
}
"""Name → relation; a document draws some of the values, all equally likely."""

SLOTS = {
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _words("January February April June July September October November December"),
    "colour": _words("blue brown dark green grey pale red silver white yellow"),
    "street": _words("chapel church harbour library market mill museum school station theatre"),
    "weather": _words("drizzle fog frost hail mist rain sleet snow sunshine thunder"),
    "thing": _words("basket bench bicycle clock coat kettle ladder lantern trunk window"),
    "animal": _words("cat crow dog duck fox goat heron horse pigeon squirrel"),
    "number": _words("two three four five six seven eight nine ten eleven twelve"),
}
"""What the braces in `FILLER` stand for, each word equally likely."""

FILLER = (
    "It had been raining since {day}.",
    "The {weather} lasted until noon.",
    "A {colour} boat lay at the quay.",
    "Somebody had left a {thing} on the stairs.",
    "The road to the {street} was closed for repairs.",
    "On {day} the shops shut early.",
    "A {animal} slept in front of the door.",
    "The trees along the river had turned {colour}.",
    "There were {number} chairs around the table.",
    "Nobody could remember a warmer {month}.",
    "The path led past the {street} and over a small hill.",
    "The last bus left at {number} o'clock.",
    "In {month} the days grow noticeably shorter or longer.",
    "The windows of the {street} were newly cleaned.",
    "A smell of fresh coffee came from the kitchen.",
    "The {thing} by the wall needed a coat of paint.",
    "Clouds gathered in the west, and then came {weather}.",
    "They walked for {number} miles without meeting anyone.",
    "The old {street} is being restored.",
    "A {animal} crossed the street and disappeared behind a fence.",
    "The bells rang {number} times.",
    "Tickets for the ferry are cheaper on {day}.",
    "The grass was still wet in the morning.",
    "Children were flying {colour} kites on the beach.",
    "The newspaper promised {weather} for the rest of the week.",
    "Behind the {street} there is a narrow lane with lamps.",
    "The {thing} had belonged to the house for years.",
    "The river rose by {number} inches during the night.",
    "Someone was whistling in the courtyard.",
    "The leaves on the pavement were {colour} and slippery.",
    "The train was late again on {day}.",
    "The first {weather} of the year came in {month}.",
    "A flock of birds settled on the roof of the {street}.",
    "The soup was served with bread and butter.",
    "The {colour} curtains moved in the draught.",
    "It takes {number} minutes to walk to the {street}.",
    "The moon stood low above the fields.",
    "A {thing} was for sale at the corner.",
    "The {animal} from next door came for its supper.",
    "The fountain is switched off from {month} onwards.",
    "The lift in the {street} was out of order.",
    "A letter without a stamp had arrived on {day}.",
    "The wind shook the {thing} all night.",
    "There was {weather} over the hills and sun in the valley.",
    "The queue reached as far as the {street}.",
    "Paths in the park are swept every {day}.",
    "The pond freezes over in cold winters.",
    "A {colour} scarf was hanging on the gate.",
    "Only {number} of the lamps were lit.",
    "The view from the tower is best in {month}.",
    "The stones on the shore were smooth and {colour}.",
    "A {animal} watched from the top of the wall.",
    "The clock on the {street} runs a little slow.",
    "Dinner was late, and the {weather} did not stop.",
    "The fair comes to town every {month}.",
    "A crate of apples stood beside the {thing}.",
    "The walls of the corridor were painted {colour}.",
    "The tide turned shortly after {number}.",
    "In the cellar it was cool and quiet.",
    "The bridge swayed a little in the wind.",
    "A new {thing} was delivered on {day}.",
    "The footprints of a {animal} were visible in the sand.",
    "The concert in the {street} was sold out.",
    "By {month} the garden was full of weeds.",
)
"""Sentences about nobody."""
