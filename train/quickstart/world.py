"""The small world that the quickstart's texts are about: its words, its clock, and the requests people make in it.

Everything here is made up for this project. Each open list (names, cities, rooms, things to do, ...) ends in a few
RESERVED entries: the base model reads them like all others, but no row of train.jsonl uses them, so that half of the
held-out rows can ask for words the fine-tune has never seen.
"""

RESERVED = 5

NAMES = """Mia Tom Anna Ben Lena Max Nora Paul Leo Emma Jack Sara Finn Ella Hugo Clara Oscar Julia Adam Rosa
Ida Peter Olga David Ruth""".split()
CITIES = """Rome Paris Berlin Vienna Madrid Prague Dublin Athens Cairo Boston Tokyo Delhi Bergen Zurich Porto
Oslo Lisbon Lima Geneva Turin""".split()
ROOMS = ["kitchen", "bedroom", "bathroom", "hall", "office", "garage", "attic", "nursery", "dining room", "study",
         "living room", "cellar", "guest room", "workshop", "library"]
DEVICES = ["lamp", "light", "heater", "fan", "television", "oven", "printer", "computer", "dishwasher", "alarm", "fountain",
           "radio", "kettle", "coffee machine", "projector", "humidifier"]
MASS = ["milk", "butter", "rice", "coffee", "flour", "cheese", "soap", "salt", "yogurt", "honey", "paper", "pasta",
        "bread", "tea", "sugar", "olive oil", "jam"]
COUNT = ["egg", "apple", "lemon", "onion", "carrot", "banana", "pear", "candle", "battery", "envelope", "cucumber", "bulb",
         "orange", "potato", "melon", "pencil", "mushroom"]
LISTS = ["shopping", "party", "weekend", "holiday"]
MUSIC = ["quiet piano music", "jazz", "rock", "old folk songs", "birthday songs", "violin music", "rain sounds", "the news",
         "loud guitar music", "dance music", "a bedtime story", "happy songs", "opera",
         "slow jazz", "harp music", "sea sounds", "winter songs", "drum music"]
DISHES = ["rice", "soup", "cake", "bread", "tea", "pizza", "laundry", "potatoes", "cookies", "fish",
          "eggs", "pasta", "pie", "coffee", "stew"]
VISITS = ["dentist", "piano lesson", "yoga class", "team meeting", "football game", "concert", "birthday party", "job interview",
          "swimming lesson", "book club", "parents' evening", "school play", "haircut",
          "doctor", "dance class", "chess club", "wedding", "choir practice"]
DEEDS = ["feed the cat", "feed the hens", "call the bank", "call the plumber", "call NAME", "pay the rent", "pay the phone bill",
         "wash the car", "wash the curtains", "clean the oven", "clean the windows", "buy a ticket", "buy a gift for NAME",
         "return the book", "send the parcel to NAME", "fix the bike", "fix the tap", "paint the fence", "paint the door",
         "book a table", "book a flight to CITY", "charge the phone", "take out the bins", "pick up NAME", "bake a cake",
         "walk the dog", "lock the gate", "iron the shirts", "empty the dishwasher", "write to NAME", "order new glasses",
         "water the plants", "sweep the yard", "mow the lawn", "back up the photos", "cancel the order", "defrost the soup",
         "water the roses", "feed the rabbit", "pay the gas bill", "wash the towels", "visit NAME", "fix the gate",
         "return the keys", "book a hotel in CITY", "clean the garage", "post the letter", "charge the camera"]
NEWS = ["dinner is ready", "the train is late", "the meeting is at noon", "the car is in the garage", "the cat is at home",
        "lunch is on the table", "the bus is full", "the shop is closed", "the keys are in the hall", "the cake is in the oven",
        "the game starts at six", "the door is open", "school starts at eight", "the dog is asleep", "the party is on Friday",
        "the parcel is here", "the flight is late", "the soup is cold", "the bike is fixed", "the tickets are on the desk"]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen""".split()
TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 90: "ninety"}
MINUTES = [3, 5, 8, 10, 12, 15, 20, 30, 40, 50, 60, 90]


def number(n):
    """12 -> "twelve"."""
    return UNITS[n] if n < 20 else TENS[n]


def plural(noun):
    if noun.endswith("y"): return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("o", "h")) else "s")


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(text):
    return text[0].upper() + text[1:]


def clock(hour24, minute):
    """Words for a time, without the part of the day, and the same time in digits."""
    hour = (hour24 - 1) % 12 + 1
    words = {0: number(hour), 15: f"a quarter past {number(hour)}", 30: f"half past {number(hour)}",
             45: f"a quarter to {number(hour % 12 + 1)}"}[minute]
    return words, f"{hour24:02d}:{minute:02d}"


class Request:
    """What someone asks for.

    ask      the request in words
    command  what a program should be told: the answer that the fine-tune teaches
    prose    the answer in a plain sentence: how the base model answers
    parts    (question, answer) about the request; each answer stands in the request word for word
    """

    def __init__(self, ask, command, prose, parts):
        self.ask, self.command, self.prose, self.parts = ask, command, prose, parts


class World:
    """Draws words and requests. words: "all", "common" (none reserved) or "reserved" (nothing but reserved)."""

    def __init__(self, rng, words="all"):
        self.rng, self.words = rng, words

    def pick(self, *options):
        return self.rng.choice(options)

    def of(self, words):
        cut = len(words) - RESERVED
        return self.rng.choice({"all": words, "common": words[:cut], "reserved": words[cut:]}[self.words])

    def several(self, words, n):
        """n different words, in any order."""
        found = []
        while len(found) < n:
            word = self.of(words)
            if word not in found: found.append(word)
        return found

    def deed(self):
        return self.of(DEEDS).replace("NAME", self.of(NAMES)).replace("CITY", self.of(CITIES))

    def item(self):
        """Something for a list: in words, and as the list keeps it."""
        if self.rng.random() < 0.5:
            word = self.of(MASS)
            return word, word
        n, noun = self.rng.randint(1, 12), self.of(COUNT)
        if n == 1: return article(noun), "1 " + noun
        return f"{number(n)} {plural(noun)}", f"{n} {plural(noun)}"

    def time(self):
        """A time of day in words and in digits. An hour alone means 06:00 to 17:00, as people mean it."""
        if self.rng.random() < 0.08: return "at noon", "12:00"
        hour, minute = self.rng.randint(6, 21), self.pick(0, 0, 0, 15, 30, 30, 45)
        if hour in (11, 12) and minute == 45 or hour == 12: minute = 0
        words, digits = clock(hour, minute)
        part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
        needed = hour >= 18
        return f"at {words}" + (f" in the {part}" if needed or self.rng.random() < 0.4 else ""), digits

    def day(self):
        """A day as a phrase and as a command has it."""
        if self.rng.random() < 0.4:
            word = self.pick("today", "tomorrow")
            return word, word
        day = self.pick(*DAYS)
        return self.pick(("on " + day, day), ("on " + day, day), ("every " + day, "every " + day))

    def when(self):
        if self.rng.random() < 0.12:
            hour, minute = self.rng.randint(18, 22), self.pick(0, 0, 30)
            words, digits = clock(hour, minute)
            return f"tonight at {words}", "today " + digits
        (day, short), (time, digits) = self.day(), self.time()
        return self.pick(f"{day} {time}", f"{day} {time}", f"{time} {day}"), f"{short} {digits}"

    # The requests, one kind each. Commands are spelled in pieces that the base model has met right after a quote or a line
    # break: the rows of the embedding do not learn in the fine-tune, and a piece that was never written cannot be told from
    # others like it.

    def remind(self):
        deed, (when, short) = self.deed(), self.when()
        ask = self.pick(f"Remind me to {deed} {when}.", f"Please remind me to {deed} {when}.", f"Remind me {when} to {deed}.",
                        f"{sentence(when)} I have to {deed}.", f"I must not forget to {deed} {when}.", f"Can you remind me to {deed} {when}?")
        prose = self.pick(f"Of course. I will remind you to {deed} {when}.", f"Good, I will remind you {when} to {deed}.")
        return Request(ask, {"Remind": deed, "when": short}, prose,
                       [("What is there to do?", deed), ("When?", when)])

    def event(self):
        visit, (when, short) = self.of(VISITS), self.when()
        ask = self.pick(f"Put {visit} in the calendar {when}.", f"Add {visit} to the calendar {when}.",
                        f"Please write down {visit} {when}.", f"Calendar: {visit} {when}.")
        prose = self.pick(f"I have put {visit} in the calendar {when}.", f"Noted: {visit} {when}.")
        return Request(ask, {"Calendar": visit, "when": short}, prose,
                       [("What goes in the calendar?", visit), ("When is it?", when)])

    def add(self):
        items, seen, n, which = [], set(), self.rng.randint(1, 3), self.rng.choice(LISTS)
        while len(items) < n:
            words, kept = self.item()
            if kept.split()[-1] not in seen: items.append((words, kept))
            seen.add(kept.split()[-1])
        words = [w for w, _ in items]
        said = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
        ask = self.pick(f"Put {said} on the {which} list.", f"Add {said} to the {which} list.", f"We need {said} for the {which} list.",
                        f"Please put {said} on the {which} list.", f"Can you add {said} to the {which} list?")
        prose = self.pick(f"I have put {said} on the {which} list.", f"Good, {said} on the {which} list.")
        return Request(ask, {"Add": [k for _, k in items], "list": which}, prose,
                       [("Which list?", which), ("What is for the list?", said)])

    def switch(self):
        device, room, to = self.of(DEVICES), self.of(ROOMS), self.pick("on", "off")
        ask = self.pick(f"Turn {to} the {device} in the {room}.", f"Turn the {device} in the {room} {to}.", f"Please switch {to} the {device} in the {room}.",
                        f"Switch the {room} {device} {to}.", f"Can you turn {to} the {device} in the {room}?")
        prose = self.pick(f"The {device} in the {room} is {to} now.", f"I have turned {to} the {device} in the {room}.")
        return Request(ask, {"Turn": device, "where": room, "on": int(to == "on")}, prose,
                       [("What is it about?", device), ("In which room?", room), ("On or off?", to)])

    def timer(self):
        dish, n = self.of(DISHES), self.rng.choice(MINUTES)
        words = self.pick(number(n), number(n), str(n))
        ask = self.pick(f"Set a timer for {words} minutes for the {dish}.", f"The {dish} needs {words} minutes.",
                        f"Start a {dish} timer, {words} minutes.", f"Tell me when the {dish} has had {words} minutes.")
        prose = self.pick(f"The timer for the {dish} is set to {words} minutes.", f"I will tell you about the {dish} in {words} minutes.")
        return Request(ask, {"Start": dish, "minutes": n}, prose,
                       [("What is the timer for?", dish), ("How many minutes?", words)])

    def message(self):
        name, text = self.of(NAMES), self.of(NEWS)
        ask = self.pick(f"Tell {name} that {text}.", f"Write to {name} that {text}.", f"Let {name} know that {text}.",
                        f"Send {name} a message: {text}.", f"{name} should know that {text}.")
        prose = self.pick(f"I have told {name} that {text}.", f"I will let {name} know that {text}.")
        return Request(ask, {"Send": text, "to": name}, prose,
                       [("Who gets the message?", name), ("What is the message?", text)])

    def play(self):
        music, room = self.of(MUSIC), self.of(ROOMS)
        ask = self.pick(f"Play {music} in the {room}.", f"Please play {music} in the {room}.", f"In the {room}, play {music}.",
                        f"I want to hear {music} in the {room}.", f"Can you play {music} in the {room}?")
        prose = self.pick(f"Now playing {music} in the {room}.", f"You will hear {music} in the {room}.")
        return Request(ask, {"Play": music, "where": room}, prose,
                       [("What is there to hear?", music), ("In which room?", room)])

    def weather(self):
        city, (day, short) = self.of(CITIES), self.pick(("today", "today"), ("tomorrow", "tomorrow"), *[("on " + d, d) for d in DAYS])
        ask = self.pick(f"What is the weather like in {city} {day}?", f"Will it rain in {city} {day}?", f"How warm is it in {city} {day}?",
                        f"Tell me the weather in {city} {day}.", f"Do I need an umbrella in {city} {day}?")
        prose = self.pick(f"I do not know the weather in {city} {day}.", f"I hope the sun shines in {city} {day}.")
        return Request(ask, {"Tell": "the weather", "where": city, "when": short}, prose,
                       [("Which city?", city), ("Which day?", day)])

    def heat(self):
        room, n = self.of(ROOMS), self.rng.randint(15, 20)
        words = self.pick(number(n), number(n), str(n))
        ask = self.pick(f"Set the {room} to {words} degrees.", f"Make it {words} degrees in the {room}.", f"Heat the {room} to {words} degrees.",
                        f"I want {words} degrees in the {room}.", f"Please set the {room} to {words} degrees.")
        prose = self.pick(f"It will soon be {words} degrees in the {room}.", f"The {room} is set to {words} degrees.")
        return Request(ask, {"Heat": room, "to": n}, prose,
                       [("Which room?", room), ("How many degrees?", words)])

    KINDS = [remind, remind, remind, event, event, add, add, add, switch, switch, timer, message, message, play, weather, heat]

    def request(self):
        return self.rng.choice(self.KINDS)(self)
