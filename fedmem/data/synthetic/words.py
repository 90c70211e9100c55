"""Fixed word lists of the synthetic notes. Their sizes are the known cardinalities of the slots.

Changing a list changes every synthetic note and the bundled base with it: lists are append-never.
"""

WOMEN = (
    "Abigail Ada Adele Agnes Alice Amara Anita Astrid Beatrice Bella Bianca Brenda Camila Carla "
    "Cecilia Celeste Clara Colette Cora Daphne Delia Dina Edith Elena Eliza Elsa Esther Fatima "
    "Fiona Flora Freya Gemma Greta Hanna Hazel Helga Ingrid Irene Isla Ivy Jana Joan Judith Kira "
    "Lara Leona Lydia Mabel Maeve Mara Nadia Nora Olive Paula Petra Rosa Selma Thea Una Vera"
).split()

MEN = (
    "Aaron Abel Adrian Alan Albert Amir Andre Anton Arthur Basil Benno Boris Bruno Caleb Carl "
    "Casper Cyril Damian Dario Desmond Diego Edgar Elias Emil Enzo Felix Finn Gideon Gustav Hakim "
    "Harvey Hector Hugo Igor Ivan Jasper Joel Jonas Karl Kenji Leon Luca Magnus Marek Milo Nils "
    "Omar Oscar Pablo Quentin Rafael Ramon Rufus Samir Simon Tariq Tobias Viktor Walter Yusuf"
).split()

SURNAMES = (
    "Abbott Adler Akers Albany Amsel Anker Archer Ashby Atwood Bagley Banner Barlow Baxter Beck "
    "Bellamy Birch Bishop Blackwood Boone Bowman Brandt Brewer Briggs Brock Buckley Burgess Byrne "
    "Calder Cardoso Carver Castle Chandler Clay Cobb Conrad Cooper Corbin Crane Cross Curry Dalton "
    "Danner Darby Decker Dixon Doyle Draper Drummond Dunn Eaton Eddy Ellery Emerson Engel Fabian "
    "Falk Farrow Fenton Fisher Fletcher Forsyth Foster Fowler Frost Galvin Garner Gates Gibbs "
    "Gilmore Glover Goodwin Graham Granger Grover Hagen Hale Halsey Hardy Harlow Hart Haskell "
    "Hatfield Hawkins Heller Henley Hobbs Holt Horner Huber Hyde Ibarra Ingram Irwin Jansen Jarvis "
    "Jessup Judd Kane Keller Kemp Kendall Kirby Klein Knox Kramer Lambert Landry Langley Larkin "
    "Lawson Ledger Lennox Locke Lowell Lowry Lund Maddox Mallory Marlow Marsh Maxwell Mercer "
    "Merritt Miles Mohr Monroe Moody Morrow Nagel Nash Naylor Nolan Norwood Oakley Odell Olsen "
    "Osborn Otto Paget Palmer Parrish Pearce Pell Perkins Pike Pollard Porter Prentice Quick Quinn "
    "Rader Ramsey Randall Redding Reeve Rhodes Rigby Roland Rowley Ruiz Rusk Salazar Sanders "
    "Sawyer Schaefer Sharpe Shelby Sinclair Slater Snyder Sorensen Spalding Stark Steele Stroud "
    "Sutton Swain Talbot Tanner Thorne Tobin Travers Tucker Turner Tyson Ulrich Underhill Vance "
    "Varga Vaughn Vickers Vogel Wade Wagner Walden Ward Watkins Weaver Webster Weller Wexler "
    "Whitaker Wilder Winslow Wolfe Wynn Yardley Yates Yorke Zeller Zimmer"
).split()

TOWN_STARTS = (
    "Alder Amber Ash Bar Bay Beech Birch Black Bracken Bramble Bright Brook Clay Cliff Cold Copper "
    "Crest Dale Deer Dun Eagle East Elder Elm Fair Fern Flint Fox Glen Gold Gray Green Hart Hazel "
    "Heron High Holly Iron Kings Lake Lang Lark Maple Marsh Mill Moss North Oak Otter Pine Raven "
    "Red River Rose Sand Shell Silver Stone West Willow"
).split()

TOWN_ENDS = (
    "bank borough bourne bridge bury by combe cross dale den field ford gate grove ham haven hill "
    "holm hurst land leigh mere minster mont port ridge shaw side stead stow"
).split()

HOSPITAL_KINDS = (
    "General Hospital",
    "Medical Center",
    "Community Hospital",
    "Memorial Hospital",
    "Regional Clinic",
    "Infirmary",
    "Teaching Hospital",
    "Health Center",
)

STREET_NAMES = (
    "Acorn Anchor Apple Arbor Barley Beacon Bell Bluebell Canal Cedar Chapel Cherry Church Clover "
    "College Cooper Cotton Cypress Daisy Depot Dogwood Fig Foundry Garden Grape Harbor Heather "
    "Hickory Ivy Jasmine Juniper Laurel Lilac Linden Magnolia Market Meadow Mint Myrtle Nutmeg "
    "Orchard Park Pebble Plum Poplar Quarry Railway School Spruce Station Summit Sycamore Temple "
    "Thistle Tulip Union Valley Walnut Water Windmill"
).split()

STREET_KINDS = ("Street", "Road", "Lane", "Avenue", "Court", "Drive")

JOB_KINDS = (
    "retired former part-time trainee senior freelance night-shift travelling assistant deputy "
    "self-employed seasonal"
).split()

JOBS = (
    "accountant|actor|architect|baker|bank clerk|barber|beekeeper|bookbinder|brewer|bricklayer|"
    "bus driver|butcher|carpenter|cartographer|chef|chemist|cleaner|clockmaker|cobbler|courier|"
    "crane operator|dairy farmer|dancer|diver|dockworker|electrician|engraver|firefighter|"
    "fisherman|florist|forester|gardener|geologist|glassblower|goldsmith|graphic designer|"
    "hairdresser|harpist|historian|hotel porter|illustrator|interpreter|janitor|jeweller|joiner|"
    "journalist|judge|lawyer|librarian|lighthouse keeper|locksmith|machinist|mason|mechanic|"
    "meteorologist|midwife|miller|miner|music teacher|notary|optician|organist|painter|"
    "paramedic|pharmacist|photographer|pilot|plumber|poet|police officer|postman|potter|printer|"
    "publisher|railway guard|roofer|sailor|scaffolder|sculptor|security guard|shepherd|"
    "ship builder|sign writer|singer|social worker|soldier|stonecutter|surveyor|tailor|tanner|"
    "taxi driver|teacher|telephone operator|tile setter|translator|truck driver|tutor|typist|"
    "upholsterer|veterinarian|violin maker|waiter|warehouse worker|watchmaker|weaver|welder|"
    "window cleaner|wine merchant|zookeeper"
).split("|")

MAIL_WORDS = (
    "amber apple arrow badger bamboo beaver birdie bison bronze canary carbon cedar clover cobalt "
    "comet coral cricket crystal daisy dolphin ember falcon fern finch garnet ginger hazel heron "
    "indigo ivory jaguar jasper kettle lantern lemon lilac lotus magnet mango maple marble meadow "
    "mellow nectar nimbus oyster pepper piano pigeon plum puffin quartz raven saffron sparrow "
    "tulip velvet walnut willow"
).split()

MONTHS = (
    "January February March April May June July August September October November December"
).split()

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
