"""What the base model reads: made-up simple English about the world of world.py, endless and different every time.

The reading is chosen for one ability above all, copying a span of text to where it is wanted: quotes, repeated lists,
questions whose answers stand in the text, notices with a little JSON card below them. Chat rows answer every request in a
plain sentence; no row here answers a request with a command. What the fine-tune adds is therefore new to the model.
"""
import json
from world import (CITIES, COUNT, DAYS, DEEDS, DEVICES, DISHES, LISTS, MASS, MINUTES, MUSIC, NAMES, NEWS, ROOMS, TENS, VISITS, World,
                   article, clock, number, plural, sentence)

COLOURS = "red blue green white black yellow brown grey".split()
THINGS = "bike coat hat bag cup book chair box phone key ball boat umbrella ladder spoon guitar".split()
PETS = "cat dog rabbit horse parrot hen goat fish".split()
JOBS = "baker doctor teacher farmer driver painter cook singer nurse builder".split()
USES = {"kettle": "boiling water", "oven": "baking bread", "lamp": "reading at night", "bike": "riding to school", "umbrella": "walking in the rain",
        "broom": "sweeping the yard", "spoon": "eating soup", "phone": "calling friends", "ladder": "reaching high places",
        "radio": "hearing the news", "boat": "crossing the river", "pencil": "writing letters", "heater": "warming a room"}
COUNTRIES = {"Oslo": "Norway", "Rome": "Italy", "Paris": "France", "Berlin": "Germany", "Vienna": "Austria", "Madrid": "Spain", "Prague": "Czechia",
             "Dublin": "Ireland", "Athens": "Greece", "Cairo": "Egypt", "Boston": "America", "Tokyo": "Japan", "Delhi": "India",
             "Bergen": "Norway", "Zurich": "Switzerland", "Porto": "Portugal", "Lisbon": "Portugal", "Lima": "Peru",
             "Geneva": "Switzerland", "Turin": "Italy"}
WEATHERS = ["It was raining.", "The sun was shining.", "It was a cold day.", "The wind was strong.", "There was snow on the road."]
FEELINGS = "happy tired hungry sad proud late ready busy".split()
WORDS = sorted({w for group in (CITIES, COUNT, DEEDS, DEVICES, DISHES, MASS, MUSIC, NAMES, NEWS, ROOMS, VISITS, COLOURS, THINGS, PETS, JOBS,
                                FEELINGS, DAYS, LISTS, list(USES.values())) for phrase in group for w in phrase.split()} - {"NAME", "CITY"})


def dump(value):
    return json.dumps(value, separators=(",", ":"))


class Corpus(World):
    """Draws rows; text() and chat() give one each."""

    def phrase(self):
        """Any few words that belong together."""
        kind = self.rng.randrange(9)
        if kind == 0: return self.deed()
        if kind == 1: return self.item()[0]
        if kind == 2: return self.when()[0]
        if kind == 3: return f"the {self.of(DEVICES)} in the {self.of(ROOMS)}"
        if kind == 4: return self.of(NEWS)
        if kind == 5: return f"the {self.pick(*COLOURS)} {self.pick(*THINGS)}"
        return self.of(self.pick(NAMES, CITIES, MASS, MUSIC, VISITS, DISHES, ROOMS, DEVICES))

    def babble(self, n):
        """Words in no order at all: nothing but copying can foretell them the second time."""
        return [self.rng.choice(WORDS) for _ in range(n)]

    # Text

    def story(self):
        (a, b), thing, colour = self.several(NAMES, 2), self.pick(*THINGS), self.pick(*COLOURS)
        city, room, feeling = self.of(CITIES), self.of(ROOMS), self.pick(*FEELINGS)
        parts = [self.pick(f"{a} lives in {city}.", f"{a} was in the {room}.", f"{self.pick(*DAYS)} was a long day for {a}."),
                 self.pick(*WEATHERS, f"{a} wanted to {self.deed()}."),
                 f"{a} had a {colour} {thing}.",
                 self.pick(f"{b} came and said: \"I want to {self.deed()}.\"", f"{b} asked: \"Where is the {colour} {thing}?\""),
                 self.pick(f"{a} put the {thing} in the {room}.", f"{a} gave the {colour} {thing} to {b}.", f"{a} and {b} went to {city}."),
                 self.pick(f"Then {b} was {feeling}.", f"{a} said: \"The {thing} is {colour}.\"", f"In the evening {a} and {b} were {feeling}.")]
        return " ".join(parts)

    def quote(self):
        (a, b), said = self.several(NAMES, 2), self.phrase()
        if self.rng.random() < 0.5: said = self.request().ask
        return self.pick(f"{a} said: \"{said}\" {b} said it too: \"{said}\"", f"{a} wrote \"{said}\" and {b} read \"{said}\".",
                         f"This is what {a} said: {said}\n\"{said}\"", f"The words: {said}\nOnce more: \"{said}\"\n{b} said: \"{said}\"")

    def babble_twice(self):
        words = self.babble(self.rng.randint(3, 12))
        line, listed = " ".join(words), dump(words)
        if self.rng.random() < 0.4: return self.pick(f"{line}. {line}. {line}.", f"{line}\n{line}")
        return self.pick(f"\"{line}\" {line}", f"{line}\n\"{line}\"", f"{line}\n{listed}", f"{listed}\n{line}",
                         "\n".join(words) + "\n" + listed, ", ".join(words) + ": " + listed)

    def babble_said(self):
        """Who said which words: found again by the name."""
        said = [(name, " ".join(self.babble(2))) for name in self.several(NAMES, 3)]
        again = self.rng.sample(said, 3)
        return ". ".join(f"{n} said {w}" for n, w in said) + ".\n" + "\n".join(self.pick(f"{n}: \"{w}\"", f"{n} said {w}.") for n, w in again)

    def note(self):
        things = [self.item() for _ in range(self.rng.randint(2, 4))]
        words = [w for w, _ in things]
        which, kept = self.pick(*LISTS), [k for _, k in things]
        return self.pick(f"{sentence(which)} list: " + ", ".join(words) + "\n" + "\n".join("- " + k for k in kept),
                         f"{sentence(which)} list: {', '.join(words)}.\n" + dump({"list": which, "items": kept}),
                         "To do:\n" + "\n".join(f"- {self.deed()} ({self.day()[1]})" for _ in range(3)),
                         f"We need {', '.join(words[:-1])} and {words[-1]}.\n" + dump(kept))

    def timetable(self):
        if self.rng.random() < 0.4:
            n = self.pick(*range(20), *TENS)
            return self.pick(f"{sentence(number(n))} is {n}.", f"{n} is {number(n)}.", f"{n} {number(n)}", f"{number(n)} {n}")
        (words, digits), city, (day, short) = self.time(), self.of(CITIES), self.day()
        return self.pick(f"The train to {city} leaves {words} ({digits}).", f"{sentence(words)}: {digits}", f"{sentence(day)} {words} is {short} {digits}.",
                         f"The shop opens {day} {words}.\nOpen: {short} {digits}", f"Bus to {city}: {digits}, so {words}.")

    def card(self):
        """A notice and the card that says the same."""
        name, city, room, (when, short) = self.of(NAMES), self.of(CITIES), self.of(ROOMS), self.when()
        n, colour, thing, pet, (item, kept) = self.rng.randint(2, 15), self.pick(*COLOURS), self.pick(*THINGS), self.pick(*PETS), self.item()
        job, visit, news, music = self.pick(*JOBS), self.of(VISITS), self.of(NEWS), self.of(MUSIC)
        text, card = self.pick(
            (f"{name} is a {job} and lives in {city}.", {"name": name, "job": job, "city": city}),
            (f"{name} is {number(n)} years old and likes {music}.", {"name": name, "years": n, "likes": music}),
            (f"{name} has a {colour} {thing} and a {pet}.", {"name": name, "has": [f"{colour} {thing}", pet]}),
            (f"There is a {colour} {thing} in the {room}.", {"thing": thing, "colour": colour, "where": room}),
            (f"The {visit} is {when}.", {"what": visit, "when": short}),
            (f"The {visit} is {when} in {city}.", {"what": visit, "when": short, "where": city}),
            (f"{name} bought {item} in {city}.", {"who": name, "bought": kept, "where": city}),
            (f"{name} wrote: {news}.", {"who": name, "text": news}),
            (f"The {self.of(DISHES)} for {name} takes {number(n)} minutes.", {"for": name, "minutes": n}),
            (f"{name} plays {music} in the {room}.", {"who": name, "plays": music, "where": room}))
        return self.pick(f"{text}\n{dump(card)}", f"{text}\n{dump(card)}", f"{dump(card)}\n{text}")

    def fact(self):
        thing, city = self.pick(*USES), self.pick(*COUNTRIES)
        return self.pick(f"{sentence(article(thing))} is good for {USES[thing]}.", f"{city} is a city in {COUNTRIES[city]}.",
                         f"People go to {city} to see {COUNTRIES[city]}.", f"{self.of(NAMES)} has a {self.pick(*COLOURS)} {thing} for {USES[thing]}.")

    # Chat: what is asked, and a plain answer

    def asked_request(self):
        request = self.request()
        return request.ask, request.prose

    def asked_part(self):
        """A question about a request that someone made: the answer is a span of it."""
        request, name = self.request(), self.of(NAMES)
        question, answer = self.rng.choice(request.parts)
        return f"{name} said: \"{request.ask}\" {question}", self.pick(sentence(answer) + ".", f"\"{answer}\"")

    def asked_copy(self):
        phrase = self.phrase() if self.rng.random() < 0.4 else " ".join(self.babble(self.rng.randint(2, 6)))
        return self.pick((f"Say: {phrase}", sentence(phrase) + "."), (f"Quote these words: {phrase}", f"\"{phrase}\""),
                         (f"Say twice: {phrase}", f"{sentence(phrase)}. {sentence(phrase)}."))

    def asked_story(self):
        (a, b), (x, y), (c, d) = self.several(NAMES, 2), self.rng.sample(THINGS, 2), self.rng.sample(COLOURS, 2)
        told = f"{a} has a {c} {x}. {b} has a {d} {y}. "
        return self.pick((told + f"Who has the {x}?", f"{a} has the {x}."), (told + f"Who has the {y}?", f"{b} has the {y}."),
                         (told + f"What colour is the {y}?", f"The {y} is {d}."), (told + f"What does {a} have?", f"{a} has a {c} {x}."))

    def asked_time(self):
        words, digits = self.time()
        n = self.pick(*range(20), *TENS)
        return self.pick((f"How do you write {words} in digits?", digits), (f"The bell rings {words}. Write the time.", digits),
                         (f"Write {number(n)} in digits.", str(n)), (f"How many minutes are {self.pick(number(n), n)} minutes?", f"{n}."))

    def asked_fact(self):
        thing, city = self.pick(*USES), self.pick(*COUNTRIES)
        return self.pick((f"What is the {thing} for?", f"It is good for {USES[thing]}."), (f"Where is {city}?", f"{city} is in {COUNTRIES[city]}."),
                         ("How are you?", "I am fine, thank you."), ("Thank you.", "You are welcome."), ("Hello.", "Hello. What can I do for you?"),
                         (f"Hello, I am {self.of(NAMES)}.", "Good to meet you."))

    TEXT = [story] * 3 + [quote] * 3 + [babble_twice] * 9 + [babble_said] * 2 + [note] * 2 + [timetable] * 2 + [card] * 6 + [fact]
    CHAT = [asked_request] * 7 + [asked_part] * 5 + [asked_copy] * 4 + [asked_story] * 2 + [asked_time] * 2 + [asked_fact]

    def text(self):
        return self.rng.choice(self.TEXT)(self)

    def chat(self):
        return self.rng.choice(self.CHAT)(self)
