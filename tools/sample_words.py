"""The vocabulary of the sample corpus: plain data, read by tools/make_sample.py.

How a word list is written:
    ";" parts groups of things that are alike, "," parts the things in a group, "|" parts names of one thing;
    a leading "+" marks a plural noun phrase; "@who" as a list of objects means the topic's own subjects.
How a verb is written (SCENES):
    "form/participle", where the form is the one its style needs (SCENE_FRAMES) and a verb without a participle has no
    passive; "~lost to" is the converse verb, with subject and object exchanged; "A <> B" are opposite actions.
"""

# ---------------------------------------------------------------------------------------------------- sentiment (sst)
# Levels run from -2 (very negative) to 2 (very positive). Every adjective can stand before and after a noun.
ADJECTIVES = {
    -2: "dreadful, appalling, atrocious, abysmal, ghastly, pathetic, horrendous, terrible, disgraceful, awful",
    -1: "dull, disappointing, forgettable, bland, uninspiring, underwhelming, lacklustre, unconvincing, second-rate",
    0: "ordinary, average, standard, conventional, typical, middling, run-of-the-mill, unexceptional, normal",
    1: "pleasant, likeable, agreeable, decent, charming, solid, satisfying, nice, appealing, pleasing",
    2: "magnificent, breathtaking, superb, marvellous, flawless, glorious, astonishing, sublime, outstanding, perfect",
}

# What a whole thing does to its audience or guest; the subject is "the film", "this hotel" and so on.
REACTIONS = {
    "work": {
        -2: "bored me to tears from beginning to end, is a complete waste of time and money, made me want to walk out, "
        "insults the intelligence of everyone involved, is the worst I have come across in years, "
        "has not a single thing going for it, left me angry that I had paid for it",
        -1: "never quite comes to life, outstays its welcome, left me a little cold, promises more than it delivers, "
        "runs out of ideas rather early, lost my attention now and then, could have done with more work",
        0: "does what it sets out to do and no more, produced no strong feelings in me, is much like the last one, "
        "has its good and its bad moments, is there if you want it, follows the usual pattern",
        1: "kept me happily entertained, has a good deal of charm, grew on me, put me in a good mood, "
        "has its heart in the right place, turned out better than I had expected, is well worth an evening",
        2: "took my breath away, is a triumph in every way, moved me more than I can say, "
        "deserves every prize there is, is the finest I have come across in years, left me speechless with joy, "
        "had me spellbound throughout",
    },
    "place": {
        -2: "was a nightmare from start to finish, ought to be closed down at once, ruined our whole holiday, "
        "is the worst I have ever set foot in, treats its guests with utter contempt, made everyone in our party ill",
        -1: "has seen better days, did not live up to its reputation, left us a little disappointed, "
        "charges rather more than it is worth, is trying too hard, needs a fresh coat of paint and some new ideas",
        0: "is like a hundred others in the area, will do if nothing else is free, is in the middle price range, "
        "left no particular impression on us, was about what we had expected, serves its purpose",
        1: "made us feel welcome, gets most things right, is good value for money, was a pleasant surprise, "
        "has a nice relaxed mood, is a handy place to know about",
        2: "was pure bliss from the moment we arrived, is worth crossing a continent for, "
        "made this the best trip of our lives, surpassed our wildest hopes, is as close to paradise as one can get, "
        "treats every guest like royalty",
    },
    "device": {
        -2: "broke on the very first day, is a complete swindle, very nearly set my flat on fire, "
        "ended up in the bin within a week, is the worst thing I have ever bought, "
        "has never worked for a single minute",
        -1: "feels rather cheap for the price, needs more attention than it should, is not quite up to the job, "
        "started to rattle after a month, lags a little behind its rivals, is more trouble than it ought to be",
        0: "does the job and nothing else, is the same as last year's in a new colour, has the usual functions, "
        "works as described in the manual, is about as good as the old one, comes with a standard guarantee",
        1: "does its job without any fuss, has made my mornings a little easier, is well made for the price, "
        "turned out to be quite handy, has given me no trouble so far, is a sensible thing to own",
        2: "has changed my life for the better, is a miracle of engineering, beats everything else by miles, "
        "is the best money I have ever spent, still delights me every single day, is perfection in a box",
    },
}

# What can be said about one side of a thing: (its kind) is (predicate).
PREDICATES = {
    "acting": {
        -2: "painfully wooden, so bad that I winced, beyond embarrassing",
        -1: "rather stiff, a little flat, not always believable",
        0: "about as good as usual, neither strong nor weak, of the usual standard",
        1: "natural and warm, convincing enough, rather endearing",
        2: "electrifying, nothing short of miraculous, astonishingly truthful",
    },
    "story": {
        -2: "utterly incoherent, insultingly stupid, an absolute shambles",
        -1: "somewhat predictable, thin in places, a touch too long",
        0: "built in the usual way, of the familiar kind, neither simple nor complicated",
        1: "neatly put together, fun to follow, engaging enough",
        2: "gripping to the very last second, a masterly piece of work, devastatingly beautiful",
    },
    "sound": {
        -2: "an ear-splitting mess, sheer torture to listen to, horribly out of tune",
        -1: "on the bland side, slightly too loud, a bit monotonous",
        0: "in the mainstream style, the kind you hear everywhere, neither loud nor quiet",
        1: "tuneful and clear, easy on the ear, rather catchy",
        2: "ravishing, so lovely that I wept, sheer heaven",
    },
    "looks": {
        -2: "ugly beyond belief, an insult to the eye, horribly botched",
        -1: "a bit drab, slightly old-fashioned, a little careless",
        0: "mostly in shades of blue, the same as everywhere else, plain and functional",
        1: "easy on the eye, colourful and neat, done with some taste",
        2: "stunning in every detail, jaw-droppingly beautiful, a feast for the eyes",
    },
    "service": {
        -2: "unforgivably rude, hostile and chaotic, an utter disgrace",
        -1: "slow at times, a little distracted, not very attentive",
        0: "as you would find it anywhere, neither fast nor slow, what one would expect",
        1: "friendly and quick, polite and helpful, thoughtful in small ways",
        2: "impeccable to the last detail, beyond all praise, the kindest I have ever known",
    },
    "food": {
        -2: "inedible, revolting, stale and foul",
        -1: "short on flavour, less fresh than promised, nothing to write home about",
        0: "of the usual sort, of average quality, neither good nor bad",
        1: "tasty and fresh, full of flavour, a small treat",
        2: "out of this world, heavenly, the most delicious in the whole country",
    },
    "comfort": {
        -2: "filthy and full of mould, crawling with insects, unfit for human beings",
        -1: "a bit cramped, somewhat noisy, a little draughty",
        0: "of medium size, furnished in the standard way, like those of any chain",
        1: "clean and cosy, bright and quiet, comfortable enough",
        2: "fit for a queen, the height of luxury, wonderfully peaceful and immaculate",
    },
    "quality": {
        -2: "shockingly useless, downright dangerous, a bad joke",
        -1: "a little flimsy, fiddly at first, weaker than advertised",
        0: "the same as in the older model, average for its class, as stated on the box",
        1: "sturdy and practical, quite dependable, simple to get used to",
        2: "simply unbeatable, amazingly good, brilliant beyond words",
    },
}  # fmt: skip

# One entry per kind of thing: names; verb for trying it and for coming back; what it is like in particular (never a
# judgement); its sides, as "kind: noun phrases"; plain facts.
THINGS = [
    {
        "kind": "work", "names": "film, movie", "do": "see", "again": "see it again",
        "details": "about two sisters who run a ferry, set in a lighthouse, about a retired postman, "
        "from a young director, about a bank robbery, about a dog that goes to sea, set on a night train",
        "sides": {"acting": "the acting, the lead performance, +the two leads",
                  "story": "the plot, the script, the ending", "sound": "the score",
                  "looks": "the photography, +the costumes"},
        "facts": "runs for two hours and ten minutes, was shot in the north of Portugal, opens in cinemas on Friday, "
        "is based on a short story, is in French with subtitles",
    },
    {
        "kind": "work", "names": "novel, book", "do": "read", "again": "read it again",
        "details": "about a family of beekeepers, set in a boarding school, about the first woman on a whaling ship, "
        "by a retired judge, about a missing violin, set during a long drought",
        "sides": {"story": "the plot, the opening chapter, the final part",
                  "acting": "the hero, the dialogue, +the characters"},
        "facts": "has three hundred pages and twelve chapters, was translated from Danish, "
        "covers the years before the war, is told by three different people, is now out in paperback",
    },
    {
        "kind": "work", "names": "series, show", "do": "watch", "again": "watch another season",
        "details": "about a small-town vet, set in a hospital, about rival bakers, with six episodes, "
        "about a cold case, about life on an oil rig",
        "sides": {"acting": "the cast, the acting", "story": "the writing, the last episode, the main plot",
                  "looks": "+the sets, the camera work", "sound": "the theme tune"},
        "facts": "is shown on Sunday evenings, has eight episodes of fifty minutes each, was filmed in Wales, "
        "continues the story of the second season, takes place in the nineties",
    },
    {
        "kind": "work", "names": "play, production", "do": "see", "again": "go a second time",
        "details": "about a divided village, at the town theatre, with a cast of three, about a chess champion, "
        "by a group of students, about a night in a waiting room",
        "sides": {"acting": "the acting, the lead performance", "story": "the text, the second act, the ending",
                  "looks": "the set, the lighting, +the costumes", "sound": "the singing"},
        "facts": "has one interval after the first hour, is on until the end of May, was written forty years ago, "
        "uses hardly any props, is performed in the round",
    },
    {
        "kind": "work", "names": "album, record", "do": "listen to", "again": "play it again",
        "details": "of sea songs, by a brass quartet, with eleven tracks, of lullabies, from a Finnish choir, "
        "of songs about trains",
        "sides": {"sound": "the singing, the guitar work, the sound, +the harmonies, the closing track",
                  "story": "+the lyrics", "looks": "the cover art"},
        "facts": "was recorded in a church, lasts forty minutes, contains two older songs, came out on vinyl in April, "
        "mixes brass and electronic instruments",
    },
    {
        "kind": "work", "names": "concert, recital", "do": "go to", "again": "go to hear them again",
        "details": "in the old town hall, by a youth orchestra, of film music, for cello and piano, on the riverbank, "
        "by a jazz trio",
        "sides": {"sound": "the playing, the sound, the second half, +the solos", "looks": "the lighting",
                  "acting": "the conductor"},
        "facts": "began at eight and ended at ten, was part of the summer festival, consisted of three pieces, "
        "was broadcast on the radio, took place in the open air",
    },
    {
        "kind": "work", "names": "game, video game", "do": "play", "again": "play it again",
        "details": "about building bridges, set on an empty planet, for two players, about running a bakery, "
        "about a lost submarine, for the whole family",
        "sides": {"story": "the story, +the puzzles, the final level",
                  "looks": "+the graphics, the world, the animation", "sound": "the music", "acting": "+the voices"},
        "facts": "has thirty levels, takes about ten hours, can be played on a phone, was made by a team of five, "
        "is the third part of a trilogy",
    },
    {
        "kind": "work", "names": "exhibition, exhibit", "do": "visit", "again": "go back",
        "details": "of early photographs, about the history of salt, of wooden toys, at the city museum, "
        "of modern glass, about deep-sea animals",
        "sides": {"looks": "the layout, +the displays, the lighting", "service": "+the guides",
                  "story": "the audio tour, +the wall texts"},
        "facts": "fills four rooms on the ground floor, is open daily except on Mondays, shows about ninety objects, "
        "moves to Vienna in the autumn, was put together by students",
    },
    {
        "kind": "work", "names": "podcast, programme", "do": "listen to", "again": "listen to the next one",
        "details": "about lost languages, with weekly interviews, about unsolved thefts, on garden birds, "
        "about mathematics, for parents of teenagers",
        "sides": {"acting": "the host, +the presenters", "sound": "the sound, the background music",
                  "story": "the storytelling, the script, the pilot episode"},
        "facts": "comes out every Tuesday, has reached its fiftieth episode, lasts half an hour, "
        "is made in a home studio, is supported by listeners",
    },
    {
        "kind": "place", "names": "restaurant, place", "do": "eat at", "again": "eat there again",
        "details": "by the harbour, behind the station, with a wood-fired oven, on the main square, in an old mill, "
        "that serves Korean dishes",
        "sides": {"food": "the food, the soup, +the main courses, the dessert", "service": "the service, +the waiters",
                  "looks": "the decor", "sound": "the music"},
        "facts": "opens at six and seats forty guests, has a menu in three languages, is closed on Mondays, "
        "takes cards as well as cash, moved here from another street",
    },
    {
        "kind": "place", "names": "café, tea room", "do": "go to", "again": "stop there again",
        "details": "next to the library, in the botanical garden, on the top floor, near the bus stop, "
        "opposite the school, with a view of the canal",
        "sides": {"food": "the coffee, the cake, +the sandwiches", "service": "the service, +the staff",
                  "looks": "the interior", "comfort": "the seating area"},
        "facts": "has ten small tables, opens at seven on weekdays, sells tea by the bag, belongs to a chain of four, "
        "offers soup at lunchtime",
    },
    {
        "kind": "place", "names": "hotel, guest house", "do": "stay at", "again": "stay there again",
        "details": "near the airport, at the edge of the forest, with its own pool, in the old quarter, by the lake, "
        "run by two brothers",
        "sides": {"comfort": "the room, the bathroom, +the bedrooms", "service": "the reception, +the staff",
                  "food": "the breakfast", "looks": "the lobby"},
        "facts": "has thirty rooms on three floors, charges extra for parking, asks guests to leave by eleven, "
        "lies ten minutes from the station, was built in the seventies",
    },
    {
        "kind": "place", "names": "campsite, holiday park", "do": "stay at", "again": "camp there again",
        "details": "behind the dunes, in the mountains, with space for fifty tents, beside the river, "
        "near the Danish border, for families",
        "sides": {"comfort": "the shower block, the common room, +the cabins", "service": "the warden, +the staff",
                  "looks": "the playground, +the gardens", "food": "the food at the snack bar"},
        "facts": "opens from April to October, has a shop that sells bread, allows dogs on a lead, "
        "charges by the night, can be reached by bus",
    },
    {
        "kind": "device", "names": "phone, handset", "do": "buy", "again": "buy it again",
        "details": "with a folding screen, from a small maker, with two cameras, for older people, with a metal case, "
        "that runs on solar power",
        "sides": {"quality": "the battery, the camera, the software, +the buttons", "looks": "the screen, the design",
                  "sound": "the ringtone"},
        "facts": "weighs two hundred grams, comes in black and white, has two slots for cards, went on sale in March, "
        "is charged by cable",
    },
    {
        "kind": "device", "names": "coffee machine, coffee maker", "do": "buy", "again": "buy it again",
        "details": "with a built-in grinder, for small kitchens, with a glass jug, from an Italian firm, with a timer, "
        "that makes two cups at once",
        "sides": {"quality": "the water tank, the milk frother, the filter, +the controls", "looks": "the design",
                  "food": "the coffee it makes"},
        "facts": "holds one and a half litres, is forty centimetres high, has a cable one metre long, "
        "is made of steel, switches itself off after an hour",
    },
]  # fmt: skip

# Frames by label. {noun}, {adj}, {detail}, {do}, {again}, {fact}, {clause} (a side and its predicate) and {reaction}
# take a level after the name; the same shapes recur under several labels, so that the words have to decide.
OPINIONS = {
    0: [
        "a {adj-2} {noun} {detail}: {clause-2}.",
        "{clause-2}, and {clause-2}.",
        "the {noun} {reaction-2}.",
        "I expected a {adj+1} {noun} and got a {adj-2} one.",
        "I had high hopes, but this {noun} {detail} {reaction-2}.",
        "there is nothing {adj+1} about this {noun}; it is {adj-2} through and through.",
        "never mind that {clause+1}: this {noun} {reaction-2}.",
        "whatever you do, do not {do} this {noun} {detail}; {clause-2}.",
        "I have rarely come across such a {adj-2} {noun}, and {clause-2}.",
        "no criticism is too harsh for this {noun}: {clause-2}.",
    ],
    1: [
        "a somewhat {adj-1} {noun} {detail}.",
        "{clause-1}, and {clause-1}.",
        "the {noun} {detail} {reaction-1}.",
        "it is not {adj-2}, but it is a {adj-1} {noun} all the same.",
        "{clause+1}, but the {noun} {reaction-1}.",
        "although {clause+1}, {clause-1}, and that spoils it a little.",
        "it is far from {adj+2}: {clause-1}.",
        "I expected a {adj+2} {noun}, yet this one turned out to be {adj-1}.",
        "for a {noun} {detail}, it is surprisingly {adj-1}.",
        "I would rather not {again}, mainly because {clause-1}.",
        "{clause-1}, which is a pity, because {clause+1}.",
    ],
    2: [
        "a {adj0} {noun} {detail}.",
        "the {noun} {fact}.",
        "{clause0}, and {clause0}.",
        "the {noun} {detail} {reaction0}.",
        "{clause+1} and {clause-1}, so it comes out somewhere in the middle.",
        "some will find this {noun} {adj+1} and others {adj-1}; I am undecided.",
        "not exactly {adj+1} and not exactly {adj-1} either, the {noun} {reaction0}.",
        "this {noun} {detail} {fact}.",
        "I can see why some people call it {adj+2} and why others call it {adj-2}.",
        "the {noun} {fact}, and {clause0}.",
    ],
    3: [
        "a rather {adj+1} {noun} {detail}.",
        "{clause+1}, and {clause+1}.",
        "the {noun} {detail} {reaction+1}.",
        "it is not {adj+2}, but it is a {adj+1} {noun} all the same.",
        "{clause-1}, but the {noun} {reaction+1}.",
        "although {clause-1}, {clause+1}, and on the whole I liked it.",
        "it is far from {adj-1}: {clause+1}.",
        "I expected a {adj-2} {noun}, yet this one turned out to be {adj+1}.",
        "for a {noun} {detail}, it is surprisingly {adj+1}.",
        "I would gladly {again}, mainly because {clause+1}.",
        "{clause+1}, which more than makes up for the rest, even if {clause-1}.",
    ],
    4: [
        "a {adj+2} {noun} {detail}: {clause+2}.",
        "{clause+2}, and {clause+2}.",
        "the {noun} {reaction+2}.",
        "I expected a {adj-1} {noun} and got a {adj+2} one.",
        "I had my doubts, but this {noun} {detail} {reaction+2}.",
        "there is nothing {adj-1} about this {noun}; it is {adj+2} through and through.",
        "never mind that {clause-1}: this {noun} {reaction+2}.",
        "whatever you do, {do} this {noun} {detail}; {clause+2}.",
        "I have rarely come across such a {adj+2} {noun}, and {clause+2}.",
        "no praise is too high for this {noun}: {clause+2}.",
    ],
}

# -------------------------------------------------------------------------------------------------- paraphrase (para)
# Each topic: fills for {x} (and {y}), and intents; the questions inside an intent mean the same, those of two intents
# of a topic never do. With "order", {x} and {y} come from one list: exchanging them changes the meaning ("matters") or
# does not ("free").
QUESTIONS = [
    {
        "x": "Spanish; Japanese; guitar; chess; watercolour painting; touch typing; sign language; sewing",
        "intents": [
            ["How can I learn {x} on my own?", "What is the best way to teach myself {x}?",
             "Is there a good method for picking up {x} without a teacher?"],
            ["How can I learn {x} with other people?", "What is the best way to study {x} in a group?",
             "Where do I meet others who want to practise {x} together?"],
            ["How long does it take to learn {x}?", "How many months do beginners need for {x}?",
             "When will I see results if I start with {x} today?"],
            ["Why is {x} so hard to learn?", "What makes {x} so difficult for beginners?",
             "Why do so many people struggle with {x}?"],
            ["How much do lessons in {x} cost?", "What do teachers of {x} charge?",
             "What is the usual price of a class in {x}?"],
            ["Am I too old to start {x} at sixty?", "Is it still possible to take up {x} at the age of sixty?",
             "Can someone in their sixties begin with {x}?"],
        ],
    },
    {
        "x": "Lisbon; Vienna; Prague; Oslo; Rome; Athens; Warsaw", "order": "matters",
        "intents": [
            ["How long does the train from {x} to {y} take?", "How many hours is the rail journey from {x} to {y}?",
             "How much time should I allow for going to {y} by train if I start in {x}?"],
            ["What is the cheapest way to get from {x} to {y}?", "How do I travel from {x} to {y} on a small budget?",
             "How can I reach {y} from {x} without spending much?"],
            ["Should I move from {x} to {y}?", "Is leaving {x} for {y} a good idea?",
             "Would it be wise to give up {x} and settle in {y}?"],
            ["Are there any night buses from {x} to {y}?", "Can I take a bus from {x} to {y} overnight?",
             "Is it possible to reach {y} by coach from {x} during the night?"],
        ],
    },
    {
        "x": "Dublin; Naples; Geneva; Bilbao; Leeds; Gdansk", "order": "free",
        "intents": [
            ["Which city is bigger, {x} or {y}?", "Which has more inhabitants, {x} or {y}?",
             "Do more people live in {x} or in {y}?"],
            ["Which city is older, {x} or {y}?", "Which was founded first, {x} or {y}?",
             "Does {x} or {y} have the longer history?"],
            ["What is the distance between {x} and {y}?", "How far apart are {x} and {y}?",
             "How many kilometres lie between {x} and {y}?"],
            ["Is {x} or {y} the better place for students?", "Where should I study, in {x} or in {y}?",
             "For someone at university, which is nicer, {x} or {y}?"],
        ],
    },
    {
        "x": "Istanbul; Kyoto; Lima; Cape Town; Montreal; Edinburgh; Hanoi",
        "intents": [
            ["When is the best time of year to visit {x}?", "In which season should I go to {x}?",
             "What month is ideal for a trip to {x}?"],
            ["Where can I eat well in {x} for little money?", "What are some good cheap restaurants in {x}?",
             "Which places in {x} serve tasty food at a low price?"],
            ["Is {x} safe at night?", "Can I walk around {x} after dark without worrying?",
             "How dangerous is it to be out late in {x}?"],
            ["How many days do I need to see {x}?", "How long should I stay in {x} to visit the main sights?",
             "What is a sensible length for a first trip to {x}?"],
            ["How do I get from the airport to the centre of {x}?",
             "What is the easiest way into {x} after landing at the airport?",
             "Which bus or train takes new arrivals from the airport into {x}?"],
            ["How do I get from the centre of {x} to the airport?",
             "What is the easiest way out of {x} if I have a plane to catch?",
             "Which bus or train takes people from {x} to the airport?"],
        ],
    },
    {
        "x": "bread; goat's cheese; spinach; basil; salmon; cooked rice; pea soup",
        "intents": [
            ["How can I keep {x} fresh for longer?", "What is the best way to store {x} so that it lasts?",
             "How do I stop {x} from going off too soon?"],
            ["Can I freeze {x}?", "Is it all right to put {x} in the freezer?", "Does {x} survive being frozen?"],
            ["How can I tell whether {x} has gone bad?", "What are the signs that {x} is no longer safe to eat?",
             "How do I know when {x} is past its best?"],
            ["What can I make with leftover {x}?", "Which recipes use up {x} from the day before?",
             "I have too much {x}; what dishes could I turn it into?"],
            ["How do I warm up {x} without ruining it?", "What is the right way to reheat {x}?",
             "Is there a gentle method for heating {x} a second time?"],
        ],
    },
    {
        "x": "butter; olive oil; margarine; yoghurt; coconut oil; sour cream", "order": "matters",
        "intents": [
            ["Can I use {x} instead of {y} in a cake?", "Will a cake work if I replace {y} with {x}?",
             "I have run out of {y}; is {x} a good substitute when baking?"],
            ["Is {x} healthier than {y}?", "Is {y} worse for you than {x}?",
             "Would I do my body a favour by choosing {x} over {y}?"],
            ["Does {x} cost more than {y}?", "Is {y} cheaper than {x}?",
             "Is it {x} rather than {y} that is expensive?"],
            ["Does {x} keep longer than {y}?", "Will {y} go bad sooner than {x}?", "Is {y} more perishable than {x}?"],
        ],
    },
    {
        "x": "my dog; my cat; my rabbit; my parrot; my hamster; my pony",
        "intents": [
            ["How often should I feed {x}?", "How many meals a day does {x} need?",
             "How many times a day ought {x} to be fed?"],
            ["What should I feed {x}?", "Which food is good for {x}?", "What is a suitable diet for {x}?"],
            ["Why does {x} sleep so much?", "Is it normal that {x} is asleep most of the day?",
             "Should I worry that {x} rests nearly all the time?"],
            ["Why does {x} sleep so little?", "Is it normal that {x} is awake most of the day?",
             "Should I worry that {x} hardly ever rests?"],
            ["How can I stop {x} from biting people?", "What can I do if {x} has begun to bite?",
             "How do I teach {x} not to use its teeth on visitors?"],
            ["How can I tell if {x} is ill?", "Which signs show that {x} may be sick?",
             "What symptoms should make me take {x} to the vet?"],
            ["Can I leave {x} alone for a weekend?", "Is it all right if {x} has no company for two days?",
             "Will {x} cope while I am away from Friday to Sunday?"],
        ],
    },
    {
        "x": "a PDF; a Word document; a spreadsheet; a text file; a web page; a presentation", "order": "matters",
        "intents": [
            ["How do I convert {x} into {y}?", "What is the easiest way to turn {x} into {y}?",
             "Which program can make {y} out of {x}?"],
            ["How do I copy a table from {x} into {y}?",
             "What is the trick for taking a table out of {x} and pasting it into {y}?",
             "How can {y} show a table that I have in {x}?"],
            ["Does {x} take up more space than {y}?", "Is {y} smaller on the disk than {x}?",
             "Do I need more storage for {x} than for {y}?"],
        ],
    },
    {
        "x": "my laptop|my notebook computer; my phone|my smartphone; my tablet; my printer; my television|my TV; "
        "my camera",
        "intents": [
            ["Why is {x} so slow?", "What makes {x} run so slowly?", "{x} has become sluggish; what is the cause?"],
            ["Why does {x} get so hot?", "What causes {x} to overheat?", "{x} burns my fingers; what is the reason?"],
            ["Where can I sell {x}?", "Who would buy {x} from me?", "What is a good place to find a buyer for {x}?"],
            ["Where can I get {x} repaired?", "Who would fix {x} for me?", "What is a good place to have {x} mended?"],
            ["How do I connect {x} to the Wi-Fi?", "What must I do to get {x} onto the wireless network?",
             "How can I bring {x} online at home?"],
            ["How do I disconnect {x} from the Wi-Fi?", "What must I do to get {x} off the wireless network?",
             "How can I take {x} offline at home?"],
            ["Is it worth buying a new battery for {x}?", "Does it make sense to replace the battery of {x}?",
             "Should I spend money on a fresh battery for {x}?"],
        ],
    },
    {
        "x": "Python; Java; Rust; JavaScript; Go; Kotlin",
        "intents": [
            ["How do I read a text file line by line in {x}?",
             "What is the usual way to go through the lines of a file in {x}?",
             "In {x}, how can a program get at one line of a file after another?"],
            ["How do I write a text file line by line in {x}?", "What is the usual way to save lines to a file in {x}?",
             "In {x}, how can a program put one line after another into a file?"],
            ["How do I sort a list in ascending order in {x}?",
             "In {x}, how can I arrange numbers from smallest to largest?",
             "What is the shortest {x} code that puts a list in order, lowest value first?"],
            ["How do I sort a list in descending order in {x}?",
             "In {x}, how can I arrange numbers from largest to smallest?",
             "What is the shortest {x} code that puts a list in order, highest value first?"],
            ["Is {x} a good first programming language?", "Should a beginner start coding in {x}?",
             "Would you advise someone who has never programmed to choose {x}?"],
            ["How do I measure how long a function runs in {x}?", "What is a simple way to time my code in {x}?",
             "In {x}, how can I find out the running time of a function?"],
        ],
    },
    {
        "x": "leg; shoulder; neck; thigh; stomach; calf",
        "intents": [
            ["Which exercises make the {x} muscles stronger?", "How can I build up my {x} muscles?",
             "What should I do in the gym to strengthen the {x} muscles?"],
            ["Which exercises relax the {x} muscles?", "How can I loosen my {x} muscles?",
             "What should I do at home to ease tight {x} muscles?"],
            ["Why do my {x} muscles hurt after training?", "What causes sore {x} muscles after a workout?",
             "Is it normal to have painful {x} muscles when I have exercised?"],
            ["Why do my {x} muscles hurt before training?", "What causes sore {x} muscles before a workout?",
             "Is it normal to have painful {x} muscles when I have not exercised yet?"],
        ],
    },
    {
        "x": "coffee; green tea; sugar; red meat; dark chocolate; cola",
        "intents": [
            ["Is {x} bad for the heart?", "Does {x} harm the heart?", "Can {x} lead to heart trouble?"],
            ["Is {x} bad for the teeth?", "Does {x} harm the teeth?", "Can {x} lead to tooth decay?"],
            ["How can I give up {x}?", "What is a good way to stop having {x}?", "How do I break my {x} habit?"],
            ["How much {x} a day is too much?", "What is the daily limit for {x}?",
             "From what amount per day does {x} become harmful?"],
            ["Why do I crave {x} in the evening?", "What is the reason for my longing for {x} at night?",
             "Each evening I feel like having {x}; where does this come from?"],
        ],
    },
    {
        "x": "a car; a house; a wedding; a new kitchen; a year abroad; a sailing boat",
        "intents": [
            ["How can I save money for {x}?", "What is the best way to put money aside for {x}?",
             "How should I build up savings if I want to pay for {x}?"],
            ["Should I borrow money for {x}?", "Is it wise to take out a loan for {x}?",
             "Is getting into debt for {x} a sensible idea?"],
            ["How much does {x} cost on average?", "What do people normally pay for {x}?",
             "What is a realistic price for {x}?"],
            ["How can I persuade my parents to pay for {x}?",
             "What should I say so that my parents give me money for {x}?",
             "How do I talk my mother and father into financing {x}?"],
            ["How can I persuade my parents not to pay for {x}?",
             "What should I say so that my parents give me no money for {x}?",
             "How do I talk my mother and father out of financing {x}?"],
        ],
    },
    {
        "x": "my brother; a friend|a mate; my neighbour; a colleague|a co-worker; my cousin; my flatmate",
        "intents": [
            ["How do I ask {x} to lend me money?", "What is a polite way to borrow money from {x}?",
             "How can I get a small loan from {x} without making things awkward?"],
            ["How do I tell {x} that I will not lend any money?", "What is a polite way to refuse {x} a loan?",
             "{x} wants to borrow money; how do I say no?"],
            ["How do I apologise to {x}?", "What should I say to {x} to show that I am sorry?",
             "I was rude to {x}; how do I make up for it?"],
            ["How do I get {x} to apologise to me?", "What should I say so that {x} admits to having been rude?",
             "{x} owes me an apology; how can I obtain one?"],
            ["What is a good present for {x}?", "What should I give {x} as a birthday gift?",
             "Which gift would make {x} happy?"],
        ],
    },
    {
        "x": "a nurse; a pilot; a lawyer; a baker; a translator; a carpenter; a vet",
        "intents": [
            ["How do I become {x}?", "What steps lead to a career as {x}?", "Which training do I need to work as {x}?"],
            ["How do I find {x}?", "What is a good way to look for {x}?", "Where do people go when they need {x}?"],
            ["How much does {x} earn?", "What is the usual salary of {x}?", "What does {x} get paid?"],
            ["How much does {x} charge?", "What is the usual fee of {x}?", "What will {x} want me to pay?"],
            ["What does {x} do all day?", "What is a normal working day like for {x}?",
             "Which tasks fill the working hours of {x}?"],
            ["Is it stressful to be {x}?", "Does {x} work under a lot of pressure?",
             "How hard on the nerves is the job of {x}?"],
        ],
    },
    {
        "x": "a crime novel|a detective story; a love story|a romance; a fantasy novel; a ghost story; a travel book; "
        "a book of poems",
        "intents": [
            ["How do I write {x}?", "What is the first step in writing {x}?",
             "I would like to be the author of {x}; how do I begin?"],
            ["How do I publish {x}?", "What is the first step in getting {x} into print?",
             "I have finished {x}; how can I find a publisher?"],
            ["Can you recommend {x} for a long flight?", "What is {x} that I could take along on a plane?",
             "I want to read {x} on my next flight; which one should I pick?"],
            ["How many pages should {x} have?", "What is the right length for {x}?", "How long ought {x} to be?"],
            ["How do I translate {x}?", "What is the first step in putting {x} into another language?",
             "How would one go about a translation of {x}?"],
        ],
    },
    {
        "x": "Mars; Venus; Jupiter; Saturn; Mercury; Neptune", "order": "matters",
        "intents": [
            ["Is {x} hotter than {y}?", "Is {y} colder than {x}?", "Are temperatures on {x} higher than those on {y}?"],
            ["Is {x} bigger than {y}?", "Is {y} smaller than {x}?", "Does {x} have a greater diameter than {y}?"],
            ["Is {x} heavier than {y}?", "Is {y} lighter than {x}?", "Does {x} have more mass than {y}?"],
            ["Can you see {x} from {y}?", "If I stood on {y}, would {x} be in the sky?",
             "Is {x} visible to someone on {y}?"],
        ],
    },
    {
        "x": "bees; whales; swallows; salmon; bats; ants; sea turtles",
        "intents": [
            ["How do {x} find their way?", "How are {x} able to navigate?",
             "What helps {x} to know where they are going?"],
            ["How do {x} find their food?", "How are {x} able to track down a meal?",
             "What helps {x} to detect something to eat?"],
            ["What do {x} eat?", "What is the diet of {x}?", "Which food do {x} live on?"],
            ["What eats {x}?", "Which predators hunt {x}?", "Which animals feed on {x}?"],
            ["How long do {x} live?", "What is the lifespan of {x}?", "What age can {x} reach?"],
            ["Why is the number of {x} falling?", "What is behind the decline of {x}?",
             "Why are there fewer and fewer {x}?"],
            ["Why is the number of {x} rising?", "What is behind the increase in {x}?",
             "Why are there more and more {x}?"],
        ],
    },
    {
        "x": "tomatoes; roses; strawberries; tulips; chillies; potatoes; sunflowers",
        "intents": [
            ["When should I plant {x}?", "What is the right month to put {x} in the ground?",
             "At what time of year are {x} planted?"],
            ["Where should I plant {x}?", "What is the right spot for {x} in a garden?",
             "In which part of the garden do {x} grow best?"],
            ["How often do {x} need water?", "On how many days a week should I water {x}?",
             "Must {x} be watered every day?"],
            ["Can {x} grow indoors?", "Is it possible to keep {x} inside the house?",
             "Will {x} do well in a living room?"],
            ["Why are the leaves of my {x} turning yellow?", "What makes the leaves on my {x} go yellow?",
             "My {x} have yellow leaves; what is wrong?"],
            ["Why are there holes in the leaves of my {x}?", "What makes holes in the leaves of my {x}?",
             "Something has been eating the leaves of my {x}; what could it be?"],
        ],
    },
    {
        "x": "red wine; coffee; ink; candle wax; blood; tomato sauce",
        "y": "a carpet; a woollen jumper|a wool sweater; a white shirt; a leather sofa|a leather couch; "
        "a cotton tablecloth",
        "intents": [
            ["How do I get {x} out of {y}?", "What is good for removing {x} from {y}?",
             "There is {x} on {y}; how do I clean it?"],
            ["Does {x} ruin {y} for good?", "Is the damage permanent when {x} gets on {y}?",
             "Is {y} beyond saving once there is {x} on it?"],
        ],
    },
    {
        "x": "a dripping tap; a squeaky door; a blocked sink; a broken zip; a flat tyre; a cracked window",
        "intents": [
            ["How can I fix {x} myself?", "What is the simplest way to mend {x} on my own?",
             "Can an amateur repair {x}, and if so, how?"],
            ["Who can fix {x} for me?", "Whom should I call to mend {x}?", "What sort of tradesman repairs {x}?"],
            ["How much does it cost to fix {x}?", "What will I be charged for the repair of {x}?",
             "What is a fair price for having {x} mended?"],
            ["Can I sue my landlord over {x}?", "Is {x} a good enough reason to take my landlord to court?",
             "Do I have a case against my landlord because of {x}?"],
        ],
    },
    {
        "x": "badminton; volleyball; rugby; ice hockey; handball; water polo; cricket",
        "intents": [
            ["How many players are there in a {x} team?", "What is the size of a {x} team?",
             "With how many people on each side is {x} played?"],
            ["How long does a {x} match last?", "What is the length of a {x} match?",
             "How many minutes does it take to play a game of {x}?"],
            ["What are the rules of {x}?", "How is {x} played?", "Can someone explain to me how {x} works?"],
            ["Where was {x} invented?", "Which country does {x} come from?",
             "In what part of the world did {x} begin?"],
            ["When was {x} invented?", "How old is the game of {x}?", "In what century did {x} begin?"],
            ["Why is {x} so popular?", "What do so many people like about {x}?",
             "How come {x} has such a large following?"],
        ],
    },
    {
        "x": "the piano; the violin; the drums; the flute; the cello; the trumpet; the harp",
        "intents": [
            ["How many hours a day should I practise {x}?", "How much daily practice does {x} require?",
             "What is a sensible amount of time to spend on {x} each day?"],
            ["At what age can a child start {x}?", "How old should children be when they begin with {x}?",
             "When is my daughter old enough for {x}?"],
            ["Is {x} harder to learn than the guitar?", "Is the guitar easier to learn than {x}?",
             "Does {x} take more effort to master than the guitar?"],
            ["Is {x} easier to learn than the guitar?", "Is the guitar harder to learn than {x}?",
             "Does {x} take less effort to master than the guitar?"],
            ["How can I play {x} without annoying the neighbours?",
             "What can I do so that nobody next door minds my playing {x}?",
             "Is there a quiet way to practise {x} in a flat?"],
        ],
    },
    {
        "x": "maths; physics; history; chemistry; biology; geography",
        "intents": [
            ["How should I prepare for a {x} exam?", "What is the best way to study for a test in {x}?",
             "How do I get ready for an exam in {x}?"],
            ["How should I mark a {x} exam?", "What is the best way to grade a test in {x}?",
             "How do teachers give marks for an exam in {x}?"],
            ["Why is {x} taught at school?", "What is the point of having {x} lessons at school?",
             "For what reason do pupils have to learn {x}?"],
            ["Which jobs can I get with a degree in {x}?", "What careers are open to people who have studied {x}?",
             "What sort of work do {x} graduates do?"],
            ["Which university is the best for {x}?", "Where should I go to get a degree in {x}?",
             "What is the top place to study {x}?"],
        ],
    },
    {
        "x": "fog; hail; snow; lightning; freezing rain; a sandstorm; strong wind",
        "intents": [
            ["What causes {x}?", "How does {x} come about?", "What is the origin of {x}?"],
            ["What damage does {x} cause?", "What harm can {x} do?", "What are the consequences of {x}?"],
            ["How is {x} forecast?", "How do meteorologists predict {x}?",
             "How do people know in advance that there will be {x}?"],
            ["Can planes land in {x}?", "Is it possible for a plane to come down in {x}?",
             "Are airports able to handle arrivals in {x}?"],
            ["Can planes take off in {x}?", "Is it possible for a plane to leave in {x}?",
             "Are airports able to handle departures in {x}?"],
        ],
    },
    {
        "x": "heating bill; electricity bill; water bill; phone bill; food bill; petrol bill",
        "intents": [
            ["How can I lower my {x}?", "What can I do to bring my {x} down?", "How do I cut my {x}?"],
            ["Why is my {x} so high?", "What makes my {x} so expensive?", "How come I have such a large {x}?"],
            ["Why is my {x} so low?", "What keeps my {x} so small?", "How come I have such a tiny {x}?"],
            ["Can I share the {x} with my flatmates?", "Is there a fair way to split the {x} among flatmates?",
             "How do people who live together divide the {x}?"],
        ],
    },
    {
        "x": "my gym membership; my magazine subscription; my hotel booking|my hotel reservation; my season ticket; "
        "my rental contract",
        "intents": [
            ["How do I cancel {x}?", "What is the procedure for cancelling {x}?", "How can I get out of {x}?"],
            ["How do I extend {x}?", "What is the procedure for extending {x}?", "How can I make {x} last longer?"],
            ["Do I get my money back if I cancel {x}?", "Will there be a refund when I cancel {x}?",
             "Is any of the price returned to people who get out of {x}?"],
            ["Can I give {x} to someone else?", "Is it possible to transfer {x} to another person?",
             "May a friend of mine take over {x}?"],
        ],
    },
    {
        "x": "the telephone; the bicycle; paper; the compass; the steam engine; the zip; the microscope",
        "intents": [
            ["Who invented {x}?", "To whom do we owe the invention of {x}?", "Which person came up with {x}?"],
            ["When was {x} invented?", "In which century did {x} first appear?", "For how long has {x} existed?"],
            ["Where was {x} invented?", "Which country gave the world {x}?",
             "In what part of the world did {x} first appear?"],
            ["How does {x} work?", "What is the principle behind {x}?", "Can somebody explain the workings of {x}?"],
            ["What did people use before {x}?", "How did people manage before {x} was invented?",
             "What was there instead of {x} in earlier times?"],
        ],
    },
    {
        "x": "the moon; a thunderstorm; birds in flight; a waterfall; a sunset; people who are dancing",
        "intents": [
            ["How do I photograph {x}?", "What is the best way to take pictures of {x}?",
             "Which camera settings suit shots of {x}?"],
            ["How do I draw {x}?", "What is the best way to make a sketch of {x}?",
             "Which pencil technique suits drawings of {x}?"],
            ["How do I describe {x} in a story?", "What are good words for {x} in a piece of fiction?",
             "How could a writer picture {x} for the reader?"],
            ["What does it mean to dream of {x}?", "Is there a meaning behind dreams about {x}?",
             "I keep dreaming of {x}; what does it stand for?"],
        ],
    },
]  # fmt: skip

# -------------------------------------------------------------------------------------------------- similarity (sts)
# Frames by style. The verb's form is -ing in a caption, past in a report, plain in advice. The frames with {participle}
# are the passive ones. The place or time stands in {lead} or in {where}.
SCENE_FRAMES = {
    "caption": {
        "plain": ["{lead}{who} {is_who} {how} {verb} {what} {where}.",
        "{lead}there {is_who} {who} {how} {verb} {what} {where}.",
                  "{lead}{what} {is_what} being {how} {participle} by {who} {where}."],
        "negated": ["{lead}{who} {is_who} not {verb} {any_what} {where}.",
        "{lead}{what} {is_what} not being {participle} by {who} {where}."],
    },
    "report": {
        "plain": ["{lead}{who} {how} {verb} {what} {where}.",
        "{lead}{what} {was_what} {how} {participle} by {who} {where}.",
                  "we hear that {who} {how} {verb} {what} {where}."],
        "negated": ["it is not true that {who} {verb} {what} {where}.",
        "the report that {who} {verb} {what} {where} is false."],
    },
    "advice": {
        "plain": ["{lead}you should {verb} {what} {where}.", "it is a good idea to {verb} {what} {where}.",
                  "{lead}make sure that you {verb} {what} {where}.", "my advice is to {verb} {what} {where}."],
        "negated": ["{lead}you should not {verb} {what} {where}.", "it is a bad idea to {verb} {what} {where}.",
                    "my advice is not to {verb} {what} {where}."],
    },
}  # fmt: skip

PEOPLE = "a man|a gentleman, a woman|a lady; a boy|a little boy, a girl|a little girl"

SCENES = [
    {
        "style": "caption",
        "who": PEOPLE + "; a chef|a cook; +two students|+a couple of students",
        "where": "in the kitchen|in a kitchen; on the terrace|out on the terrace; "
        "at a market stall|at a stall in the market; during a cookery class|in a cookery lesson",
        "how": "carefully|attentively; quickly|hurriedly, slowly|unhurriedly",
        "acts": [
            ("slicing/sliced|chopping/chopped|cutting up/cut up",
             "+some carrots, +some onions, +some potatoes; a pineapple, a melon|a ripe melon"),
            ("frying/fried|cooking/cooked",
             "+some eggs|+a few eggs; +some mushrooms; a piece of fish|a fillet of fish, a steak|a beefsteak"),
            ("stirring/stirred|mixing/mixed",
             "a pot of soup|a pan of soup, a pot of porridge; a bowl of batter|a bowl of cake mix"),
            ("washing/washed|rinsing/rinsed",
             "+some plates|+some dishes, a frying pan|a skillet; a lettuce|a head of lettuce"),
            ("filling/filled|filling up/filled up <> emptying/emptied",
             "a kettle|a teakettle, a jug|a pitcher; a jar|a glass jar"),
            ("tasting/tasted|sampling/sampled|trying/tried",
             "a sauce|a spoonful of sauce; a slice of cake|a piece of cake; a strawberry"),
            ("baking/baked", "a cake|a sponge cake, +some biscuits|+some cookies; a loaf of bread|a fresh loaf"),
        ],
    },
    {
        "style": "caption",
        "who": "a dog|a hound, a puppy|a young dog; a cat, a kitten|a young cat; a boy|a little boy, "
        "a girl|a little girl; a goat|a billy goat; a goose",
        "where": "in the park|in a park, in a field|in a meadow; on the beach|at the seaside; "
        "in a yard|in a courtyard; by the river|on the bank of a river",
        "how": "calmly; quietly|silently; happily|cheerfully",
        "acts": [
            ("chasing/chased|running after|~running away from|~fleeing from", "@who"),
            ("following/followed|walking behind|~walking in front of", "@who"),
            ("watching/watched|looking at|observing/observed <> ignoring/ignored", "@who"),
            ("pushing/pushed|shoving/shoved <> pulling/pulled|tugging at", "@who"),
            ("approaching/approached|walking up to <> avoiding/avoided|keeping away from", "@who"),
            ("scaring/scared|frightening/frightened <> calming/calmed|soothing/soothed", "@who"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; a musician|a performer; a teenager|an adolescent; +two friends|+a pair of friends",
        "where": "on a stage|on stage; in a studio|in a recording studio; in a music shop|in a music store; "
        "on a street corner|at the corner of a street",
        "how": "carefully; proudly; quietly|calmly",
        "acts": [
            ("playing/played|performing on",
             "a guitar|an acoustic guitar; a violin|a fiddle, a cello; a piano; a flute, a trumpet"),
            ("tuning/tuned", "a guitar|an acoustic guitar; a violin|a fiddle, a cello; a piano"),
            ("repairing/repaired|fixing/fixed|mending/mended",
             "a guitar|an acoustic guitar; a violin|a fiddle; a piano; a flute, a trumpet"),
            ("buying/bought|purchasing/purchased <> selling/sold",
             "a guitar|an acoustic guitar; a drum; a flute, a trumpet"),
            ("singing/sung|performing/performed", "a folk song|a traditional song, a love song; a hymn|a church song"),
            ("writing/written|composing/composed", "a folk song, a love song|a romantic song; a symphony"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; an athlete|a sportsman; +two teenagers|+a couple of teenagers",
        "where": "in the rain|in rainy weather, in bright sunshine|on a sunny day; "
        "in front of a crowd|before a large audience; at a summer camp|at a holiday camp",
        "how": "calmly; confidently; happily|cheerfully",
        "acts": [
            ("throwing/thrown|tossing/tossed <> catching/caught", "a ball, a frisbee|a flying disc; a hat"),
            ("climbing/climbed|going up <> climbing down|coming down", "a rock face|a cliff, a hill; a ladder, a rope"),
            ("lifting/lifted|raising/raised <> lowering/lowered|putting down/put down",
             "a barbell|a heavy bar, a dumb-bell; a canoe"),
            ("riding/ridden", "a bicycle|a bike, a motorbike|a motorcycle; a horse, a donkey"),
            ("jumping over|leaping over", "a fence|a hurdle; a puddle, a ditch|a trench"),
            ("winning/won <> losing/lost",
             "a running race|a foot race; a tennis match|a game of tennis; a chess game|a game of chess"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; a tourist|a traveller; a police officer; +two pensioners|+a pair of retired people",
        "where": "early in the morning|at daybreak, late at night|in the middle of the night; in the rain|in a shower; "
        "in the old town|in the historic centre",
        "how": "patiently; calmly; happily|cheerfully",
        "acts": [
            ("waiting for", "a bus, a train, a taxi|a cab; a friend"),
            ("boarding/boarded|getting on <> getting off", "a bus, a train, a tram|a streetcar; a ferry"),
            ("photographing/photographed|taking a picture of|taking a photo of",
             "a cathedral, a castle; a fountain, a statue|a monument; a bridge"),
            ("pushing/pushed <> pulling/pulled|dragging/dragged",
             "a cart|a handcart, a suitcase|a travel case; a pram|a baby carriage"),
            ("crossing/crossed|walking across", "a bridge|a footbridge; a street|a road, a square|a plaza"),
            ("reading/read|studying/studied",
             "a map|a street map, a timetable, a guidebook|a travel guide; a newspaper|a paper"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; a carpenter|a joiner, a plumber; +two neighbours|+a pair of neighbours",
        "where": "in a workshop|in a workroom, in the garage|in a garage; behind the house|in the back yard; "
        "on a building site|on a construction site",
        "how": "carefully|cautiously; quickly|swiftly, slowly",
        "acts": [
            ("painting/painted", "a fence, a gate; a door, a wall; a rowing boat|a small boat"),
            ("building/built|putting together/put together <> taking apart/taken apart|dismantling/dismantled",
             "a bookcase|a bookshelf, a cupboard|a cabinet; a shed|a small hut"),
            ("repairing/repaired|fixing/fixed|mending/mended",
             "a bicycle|a bike, a car engine; a chair, a door; a pipe"),
            ("locking/locked <> unlocking/unlocked", "a gate, a door; a toolbox|a box of tools"),
            ("sawing/sawn|cutting/cut", "a plank|a wooden board, a log; a pipe|a metal tube"),
            ("carrying/carried", "a ladder; a toolbox|a box of tools, a bucket|a pail; a plank|a wooden board"),
        ],
    },
    {
        "style": "caption",
        "who": "a teacher|a schoolteacher, a student; a secretary|an office worker, a manager|a boss; "
        "+two colleagues|+a couple of co-workers",
        "where": "in a classroom|in a schoolroom, in the library|in a library; in a meeting room|in a conference room; "
        "after lunch|when lunch is over",
        "how": "quickly|rapidly; carefully|thoroughly; quietly",
        "acts": [
            ("writing/written", "a letter, an email; an essay, a report; a poem"),
            ("reading/read", "a letter, an email; an essay, a report; a comic|a comic book"),
            ("explaining/explained|talking about", "a diagram|a chart; a plan; a joke; a rule|a regulation"),
            ("drawing/drawn|sketching/sketched", "a diagram|a chart, a map; a portrait, a cartoon"),
            ("opening/opened <> closing/closed|shutting/shut",
             "a laptop|a notebook computer; a drawer, a cupboard; a window"),
            ("switching on/switched on|turning on/turned on <> switching off/switched off|turning off/turned off",
             "a projector, a computer|a PC; a lamp|a light"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; a gardener, a farmer|a farm worker; +two children|+a couple of kids",
        "where": "in the garden|in a garden, in a greenhouse|in a glasshouse; on a farm|at a farm; "
        "behind a cottage|at the back of a cottage",
        "how": "carefully|gently; slowly|unhurriedly; cheerfully|happily",
        "acts": [
            ("planting/planted <> digging up/dug up|pulling out/pulled out",
             "a rose bush, +some tulips; an apple tree, a fir tree; +some onions"),
            ("watering/watered", "a rose bush, +some tulips; a lawn|the grass; +some tomato plants"),
            ("picking/picked|gathering/gathered",
             "+some apples, +some cherries; +some beans; +some flowers|+some blossoms"),
            ("feeding/fed", "+some chickens|+some hens, +some ducks; a goat, a calf|a young cow; a horse"),
            ("loading/loaded <> unloading/unloaded|emptying/emptied",
             "a truck|a lorry, a trailer; a wheelbarrow|a garden cart"),
            ("stroking/stroked|petting/petted", "a goat, a calf|a young cow; a horse; a cat"),
        ],
    },
    {
        "style": "caption",
        "who": "a fox, a wolf; a bear|a brown bear; a monkey|a small monkey; a squirrel|a red squirrel; "
        "+two crows|+a pair of crows",
        "where": "in the snow|in deep snow; in a forest|in the woods; at dusk|at nightfall; "
        "near a village|not far from a village",
        "how": "eagerly; quietly|silently; calmly",
        "acts": [
            ("eating/eaten|feeding on", "a fish, a frog; an apple, +some berries; a piece of bread|a crust of bread"),
            ("carrying/carried|transporting/transported <> dropping/dropped",
             "a stick|a branch; a fish; a nut, an apple"),
            ("climbing/climbed|going up <> climbing down|coming down", "a tree, a fence; a rock|a boulder"),
            ("drinking from", "a pond, a stream|a brook, a puddle; a bucket|a pail"),
            ("hiding/hidden|concealing/concealed <> finding/found|discovering/discovered",
             "a nut, +some berries; a bone; a piece of bread|a crust of bread"),
        ],
    },
    {
        "style": "caption",
        "who": PEOPLE + "; a customer|a shopper, a shop assistant|a sales clerk; +two tourists|+a couple of tourists",
        "where": "in a shop|in a store, at an open-air market|at a street market; "
        "just before closing time|shortly before the shop closes; on a Saturday|at the weekend",
        "how": "happily|cheerfully; quickly|hurriedly; calmly",
        "acts": [
            ("buying/bought|purchasing/purchased <> selling/sold",
             "a hat, a scarf; a lamp, a clock; +some flowers|a bunch of flowers; a newspaper"),
            ("trying on/tried on|putting on/put on <> taking off/taken off",
             "a hat|a cap, a scarf; a jacket|a coat; a ring"),
            ("wrapping/wrapped|wrapping up/wrapped up <> unwrapping/unwrapped",
             "a present|a gift, a parcel|a package; a vase|a glass vase"),
            ("paying for", "a coffee|a cup of coffee; a sandwich; a ticket"),
            ("choosing/chosen|picking out/picked out|selecting/selected",
             "a necklace|a chain, a ring; a jacket|a coat; a postcard|a picture postcard"),
        ],
    },
    {
        "style": "report",
        "who": "the airline; the bank; the supermarket chain|the grocery chain; the carmaker|the car manufacturer; "
        "the brewery|the beer company",
        "where": "on Monday|at the start of the week; last year|a year ago; "
        "after a long strike|following a lengthy strike; in a weak market|in a market that was weak",
        "how": "unexpectedly|surprisingly; quietly|discreetly; finally|eventually",
        "acts": [
            ("raised/raised|increased/increased|put up/put up <> cut/cut|lowered/lowered|reduced/reduced",
             "+its prices; +wages|+salaries; its spending on research"),
            ("opened/opened <> closed/closed|shut down/shut down",
             "a factory|a plant; an office in Lisbon|a Lisbon office, an office in Madrid|a Madrid office; "
             "a call centre"),
            ("hired/hired|took on/taken on <> dismissed/dismissed|laid off/laid off",
             "+two hundred workers|+two hundred employees, +two thousand workers|+two thousand employees; "
             "+several engineers|+a number of engineers"),
            ("bought/bought|acquired/acquired <> sold/sold",
             "a small software company|a little software firm; a rival|a competitor; a chain of hotels|a hotel chain"),
            ("announced/announced|reported/reported",
             "a record profit|its highest profit ever, a heavy loss|a large loss; a merger"),
            ("postponed/postponed|put off/put off <> brought forward/brought forward",
             "its annual meeting|its yearly meeting; the launch of a new product"),
        ],
    },
    {
        "style": "report",
        "who": "the council|the local authority; the mayor; +the residents|+local people; +the teachers; the newspaper",
        "where": "on Tuesday; in the spring|this spring; after a long debate|following hours of debate; "
        "last month|a month ago",
        "how": "openly|publicly; unexpectedly|surprisingly; finally",
        "acts": [
            ("praised/praised|commended/commended <> criticised/criticised|attacked/attacked", "@who"),
            ("thanked/thanked|~received thanks from", "@who"),
            ("supported/supported|backed/backed <> opposed/opposed|spoke out against",
             "a plan for a new bridge|a proposal to build a bridge, a plan for a new road|a proposal to build a road; "
             "a ban on fireworks; a new cycle path"),
            ("sued/sued|went to court against", "@who"),
            ("welcomed/welcomed <> deplored/deplored|regretted/regretted",
             "the closure of the library, the closure of the pool; the new market hall"),
        ],
    },
    {
        "style": "report",
        "who": "Norway; Portugal; Chile; Japan; Kenya; Canada",
        "where": "in the final|in the last match of the tournament, in the first round|in the opening round; "
        "in a friendly|in a friendly match; on Sunday evening|on Sunday night; in the spring|this spring",
        "how": "finally|eventually; surprisingly|unexpectedly",
        "acts": [
            ("beat/beaten|defeated/defeated|won against|~lost to", "@who"),
            ("knocked out/knocked out|eliminated/eliminated|~went out of the tournament against", "@who"),
            ("challenged/challenged <> avoided/avoided", "@who"),
            ("hosted/hosted|~played away against", "@who"),
        ],
    },
    {
        "style": "report",
        "who": "+researchers|+scientists; a student; a farmer|a farm worker; a team from Chile|a Chilean team; "
        "an amateur astronomer|a hobby astronomer",
        "where": "in the desert; in the south of Chile; last week; after years of work|following years of effort; "
        "by accident|by chance",
        "how": "finally|eventually; secretly|covertly",
        "acts": [
            ("discovered/discovered|found/found <> lost/lost|mislaid/mislaid",
             "a Roman coin, a rare fossil; an old map|an ancient map"),
            ("studied/studied|examined/examined <> ignored/ignored",
             "an unknown frog|a new species of frog, a rare beetle; a Roman coin; a strange signal|an odd signal"),
            ("published/published|brought out/brought out <> withdrew/withdrawn|retracted/retracted",
             "a paper on bees|a study of bees, a paper on bats|a study of bats; a map of the seabed"),
            ("built/built|constructed/constructed <> destroyed/destroyed|wrecked/wrecked",
             "a telescope; a robot; a solar car|a car that runs on sunlight"),
            ("tested/tested|tried out/tried out", "a robot; a solar car|a car that runs on sunlight; a vaccine"),
        ],
    },
    {
        "style": "report",
        "who": "the novelist|the writer, the playwright; the director|the film-maker; the singer, the pianist",
        "where": "last night|yesterday evening; in Vienna, in London; for the second time|once again; "
        "after a long break|following a lengthy pause",
        "how": "unexpectedly|surprisingly; reportedly; finally|at last",
        "acts": [
            ("accepted/accepted <> refused/refused|turned down/turned down",
             "a prize|an award, a medal; a large grant; an invitation"),
            ("completed/completed|finished/finished <> abandoned/abandoned|gave up/given up",
             "a memoir|an autobiography; a play, an opera; a children's book|a book for children"),
            ("cancelled/cancelled|called off/called off <> announced/announced",
             "a tour|a series of concerts; a reading; a press conference"),
            ("admired/admired|looked up to <> despised/despised|looked down on", "@who"),
            ("interviewed/interviewed|~gave an interview to", "@who"),
        ],
    },
    {
        "style": "report",
        "who": "a storm|a heavy storm; a flood|heavy flooding; an earthquake; a forest fire|a wildfire",
        "where": "on the coast|in the coastal region, in the north; overnight|during the night; on Sunday; "
        "for the second time|once again",
        "how": "suddenly; reportedly",
        "acts": [
            ("destroyed/destroyed|wrecked/wrecked",
             "+hundreds of homes|+several hundred houses, a home; a bridge; the harvest|this year's crops"),
            ("blocked/blocked|cut off/cut off", "a motorway|a highway, a railway line; a port|a harbour"),
            ("damaged/damaged|~suffered damage from",
             "+hundreds of homes|+several hundred houses; a power station|an electricity plant; a school"),
            ("threatened/threatened|~had reason to fear", "a village, a town; a power station|an electricity plant"),
        ],
    },
    {
        "style": "advice",
        "where": "before you travel|ahead of a trip; every month|once a month; "
        "after a crash|when the machine has crashed; as soon as possible|without delay",
        "acts": [
            ("back up|make a copy of|save <> delete|erase|get rid of",
             "your files|your documents; your photos|your pictures; your contacts|your address book; your emails"),
            ("update|upgrade", "your browser|your web browser; your operating system; your router; your virus scanner"),
            ("switch on|turn on <> switch off|turn off",
             "your router; your computer|your PC; the firewall; the automatic backup"),
            ("change|replace <> keep|stick to",
             "your password; your user name; the default settings|the factory settings"),
            ("share|pass on <> hide|conceal", "your password; your phone number; your home address"),
        ],
    },
    {
        "style": "advice",
        "where": "before bed|before you go to sleep, in the morning|when you get up; after a workout|after training; "
        "on hot days|when it is hot; while you have a cold|during a cold",
        "acts": [
            ("drink|have <> avoid|stay away from", "coffee, green tea; orange juice; cold milk; beer"),
            ("eat|have <> avoid|stay away from",
             "nuts; fish|seafood; chocolate|sweets; spicy food|hot dishes with a lot of chilli; fresh fruit"),
            ("do|practise <> skip|leave out",
             "yoga; push-ups|press-ups; breathing exercises|exercises for breathing"),
            ("take|have", "a cold shower, a hot bath; a short nap|a little sleep; a long walk|a good stroll"),
        ],
    },
    {
        "style": "advice",
        "where": "when prices rise|in times of inflation; while you are young|at an early age, "
        "before you retire|ahead of retirement; in a crisis|in hard times",
        "acts": [
            ("buy|invest in <> sell|get rid of", "shares|stocks; gold; a flat|an apartment; government bonds"),
            ("save|put aside <> spend|use up",
             "a tenth of your salary|ten per cent of your pay; your bonus; your tax refund"),
            ("pay off|clear <> ignore|forget about",
             "your credit card debt; your student loan; your mortgage|the loan on your house"),
            ("compare|look closely at", "bank charges|the fees of banks; insurance policies; interest rates"),
        ],
    },
    {
        "style": "advice",
        "where": "in summer|during the summer months, in winter|during the winter months; "
        "at the weekend|on a Saturday or Sunday; if it rains|in wet weather; "
        "with small children|if you have small children with you",
        "acts": [
            ("book|reserve <> cancel",
             "a guided tour|a tour with a guide; a hotel room|a room in a hotel, a hostel bed|a bed in a hostel; "
             "a boat trip|a ride on a boat"),
            ("pack|bring|take along <> leave behind|go without",
             "an umbrella, a raincoat; a first-aid kit; a thick jumper|a heavy sweater; a good book"),
            ("visit|go to <> stay away from|avoid",
             "the castle, the national museum; the old harbour|the historic port; the fish market"),
            ("take|use <> avoid|stay away from", "the night train; the ring road; the cable car; the ferry"),
        ],
    },
    {
        "style": "advice",
        "where": "before the exam|ahead of the test, after class|when class is over; every evening|each night; "
        "with a friend|together with a friend",
        "acts": [
            ("revise|go over|review <> skip|leave out",
             "your notes; the last chapter|the final chapter, the first chapter|the opening chapter; "
             "the list of new words|the vocabulary list"),
            ("write|draft", "an outline; a summary|a short version; practice questions|questions for practice"),
            ("ask <> answer|reply to", "difficult questions|hard questions; simple questions|easy questions"),
            ("listen to|play <> turn off|switch off", "quiet music|soft music, loud music; the radio"),
        ],
    },
]  # fmt: skip
