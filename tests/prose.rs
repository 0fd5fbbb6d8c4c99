//! The rules of prose that a program can check, on every page that a user reads, and in the doc
//! comments of the sources.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The pages, from the root: files, or directories with all the pages in them. A program in a
/// directory of its own has its page in the file that it begins with.
const PAGES: &[&str] = &[
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "README.md",
    "data/README.md",
    "examples",
    "loom-tests/README.md",
    "src/docs",
    "tests/fuzz/README.md",
];

/// Sources whose doc comments obey the rules of sentences and words: files, or directories with all
/// the sources below them.
const SOURCES: &[&str] = &["src"];

/// Pages that have to stay short.
const LONGEST: &[(&str, usize)] = &[("README.md", 150)];

const WORDS_IN_A_SENTENCE: usize = 25;

const LINES_OF_A_RECIPE: usize = 25;

/// These begin a sentence whose subject has no name.
const HEADLESS: &[&str] = &["What ", "Who ", "Those ", "So many "];

/// Words that are not used, and those that are.
const RETIRED: &[(&str, &str)] = &[
    ("answers", "returns"),
    ("analyse", "analyze"),
    ("artefact", "artifact"),
    ("behaviour", "behavior"),
    ("catalogue", "catalog"),
    ("centre", "center"),
    ("colour", "color"),
    ("defence", "defense"),
    ("favour", "favor"),
    ("favourite", "favorite"),
    ("finalise", "finalize"),
    ("grey", "gray"),
    ("honour", "honor"),
    ("initialise", "initialize"),
    ("judgement", "judgment"),
    ("kilometre", "kilometer"),
    ("kilometres", "kilometers"),
    ("labelled", "labeled"),
    ("licence", "license"),
    ("maximise", "maximize"),
    ("minimise", "minimize"),
    ("modelled", "modeled"),
    ("neighbour", "neighbor"),
    ("neighbours", "neighbors"),
    ("optimise", "optimize"),
    ("organise", "organize"),
    ("programme", "program"),
    ("recognise", "recognize"),
    ("serialise", "serialize"),
    ("signalled", "signaled"),
    ("summarise", "summarize"),
    ("synchronise", "synchronize"),
    ("whilst", "while"),
];

/// Where a file that a page names in code may live.
const ROOMS: &[&str] = &[
    ".ci/",
    "benches/",
    "data/",
    "docs/",
    "examples/",
    "loom-tests/",
    "src/",
    "tests/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).expect("a readable directory");
    entries.map(|entry| entry.expect("a readable entry").path())
}

/// A file, and its text as far as it is prose.
type Text = (PathBuf, String);

fn pages() -> Vec<Text> {
    let mut found = Vec::new();
    for page in PAGES {
        let path = root().join(page);
        if path.is_dir() {
            found.extend(entries(&path).map(|entry| match entry.is_dir() {
                true => program_in(&entry),
                false => entry,
            }));
        } else {
            found.push(path);
        }
    }
    found.sort();
    let texts = found.into_iter().map(|page| {
        let text = read(&page);
        (page, text)
    });
    texts.collect()
}

fn sources() -> Vec<Text> {
    let mut left: Vec<_> = SOURCES.iter().map(|source| root().join(source)).collect();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(entries(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let source = fs::read_to_string(&path).expect("a readable source");
            found.push((path, doc_comments(&source)));
        }
    }
    found.sort();
    found
}

/// The file that a program in a directory of its own begins with: `main.rs`, or one of the
/// directory's name.
fn program_in(directory: &Path) -> PathBuf {
    let name = directory.file_name().unwrap_or_default();
    let named = directory.join(name).with_extension("rs");
    match named.exists() {
        true => named,
        false => directory.join("main.rs"),
    }
}

/// The doc comments of a source, one paragraph or more for each.
fn doc_comments(source: &str) -> String {
    let lines = source.lines().map(|line| {
        let line = line.trim_start();
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        comment.unwrap_or_default()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A page's text: of a source file, the comment at its head.
fn read(page: &Path) -> String {
    let text = fs::read_to_string(page).expect("a readable page");
    if page.extension().is_none_or(|kind| kind != "rs") {
        return text;
    }
    let head = text.lines().map_while(|line| line.strip_prefix("//!"));
    let lines: Vec<_> = head.map(|line| line.trim_start()).collect();
    lines.join("\n")
}

/// The page without its blocks of code.
fn without_code(text: &str) -> Vec<&str> {
    let mut inside = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(outside).collect()
}

/// The text in plain words: a piece of code is one word, a link is its text.
fn plain(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let words = parts.map(|(at, part)| if at % 2 == 0 { part } else { "Code" });
    let mut rest = words.collect::<String>();
    while let Some(from) = rest.find("](") {
        let Some(length) = rest[from..].find(')') else {
            break;
        };
        rest.replace_range(from..=from + length, "]");
    }
    rest.replace(['*', '[', ']'], "")
}

/// Paragraphs and items of lists, each in one line of plain words. Tables, headings, images
/// and definitions of links are no sentences.
fn paragraphs(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in without_code(text) {
        let line = line.trim();
        let item = line.strip_prefix("- ").or_else(|| {
            let (number, rest) = line.split_once(". ")?;
            number.parse::<u32>().ok().map(|_| rest)
        });
        let apart = ["|", "#", "!["].iter().any(|mark| line.starts_with(mark));
        if apart
            || line.is_empty()
            || item.is_some()
            || (line.starts_with('[') && line.contains("]:"))
        {
            found.push(String::new());
        }
        if !apart {
            let last = found.last_mut().expect("there is one from the start");
            last.push_str(item.unwrap_or(line));
            last.push(' ');
        }
    }
    found.retain(|paragraph| !paragraph.trim().is_empty());
    found.iter().map(|paragraph| plain(paragraph)).collect()
}

/// A sentence ends at a full stop, or a question or exclamation mark, before a space and
/// something other than a small letter.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut from = 0;
    for (at, mark) in paragraph.char_indices() {
        let rest = &paragraph[at + mark.len_utf8()..];
        let rest = rest.trim_start_matches([')', '"', '”']);
        let next = rest.trim_start().chars().next();
        let ends = ['.', '?', '!'].contains(&mark) && rest.starts_with(' ');
        if ends && !next.is_some_and(char::is_lowercase) {
            found.push(paragraph[from..=at].trim());
            from = at + 1;
        }
    }
    found.push(paragraph[from..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

fn count_words(sentence: &str) -> usize {
    let words = sentence.split_whitespace();
    words
        .filter(|word| word.contains(char::is_alphanumeric))
        .count()
}

fn long_sentences(text: &str) -> Vec<String> {
    let paragraphs = paragraphs(text);
    let sentences = paragraphs.iter().flat_map(|paragraph| sentences(paragraph));
    let long = sentences.filter(|sentence| count_words(sentence) > WORDS_IN_A_SENTENCE);
    long.map(|sentence| format!("{} words: {sentence}", count_words(sentence)))
        .collect()
}

fn headless_sentences(text: &str) -> Vec<String> {
    let paragraphs = paragraphs(text);
    let sentences = paragraphs.iter().flat_map(|paragraph| sentences(paragraph));
    let headless = |sentence: &&str| HEADLESS.iter().any(|start| sentence.starts_with(start));
    let question = |sentence: &&str| sentence.ends_with('?');
    sentences
        .filter(|sentence| headless(sentence) && !question(sentence))
        .map(|sentence| format!("no subject: {sentence}"))
        .collect()
}

fn retired_words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in without_code(text) {
        let line = plain(line).to_lowercase();
        for word in line.split(|letter: char| !letter.is_alphanumeric()) {
            let retired = RETIRED.iter().find(|(retired, _)| *retired == word);
            found.extend(retired.map(|(retired, used)| format!("{retired} for {used}: {line}")));
        }
    }
    found
}

/// Where links in the text go, but for those to other sites.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in without_code(text) {
        let mut parts = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        if line.starts_with('[')
            && let Some((_, target)) = parts.split_once("]: ")
        {
            found.push(target.to_owned());
        }
        while let Some(from) = parts.find("](") {
            parts.drain(..from + 2);
            let end = parts.find(')').unwrap_or(parts.len());
            found.push(parts[..end].to_owned());
        }
    }
    found.retain(|target| !target.contains("://"));
    found
}

/// The anchor of a heading, as GitHub and rustdoc make it.
fn anchor(heading: &str) -> String {
    let kept = plain(&heading.replace('`', "")).trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().replace(' ', "-")
}

fn anchors(text: &str) -> Vec<String> {
    let mut seen = HashMap::new();
    let lines = without_code(text).into_iter();
    let headings = lines.filter(|line| line.starts_with('#'));
    let unique = |heading: &str| {
        let anchor = anchor(heading.trim_start_matches('#'));
        let before = seen.entry(anchor.clone()).or_insert(0);
        *before += 1;
        match *before {
            1 => anchor,
            n => format!("{anchor}-{}", n - 1),
        }
    };
    headings.map(unique).collect()
}

fn broken_links(page: &Path, text: &str) -> Vec<String> {
    let broken = |target: &String| {
        let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
        let file = match file {
            "" => page.to_owned(),
            file => page.with_file_name(file),
        };
        let is_missing =
            |file: &Path| !wanted.is_empty() && !anchors(&read(file)).contains(&wanted.to_owned());
        !file.exists() || is_missing(&file)
    };
    let links = targets(text).into_iter().filter(broken);
    links
        .map(|target| format!("leads nowhere: {target}"))
        .collect()
}

/// Files that the text names in code, and that are not there.
fn missing_files(text: &str) -> Vec<String> {
    let lines = without_code(text).into_iter();
    let code = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = code.filter(|code| ROOMS.iter().any(|room| code.starts_with(room)));
    let names = names.filter_map(|code| code.split_whitespace().next());
    names
        .filter(|name| !root().join(name).exists())
        .map(|name| format!("no such file: {name}"))
        .collect()
}

/// Applies a rule to every text and says all that it finds.
fn hold(texts: &[Text], rule: impl Fn(&Path, &str) -> Vec<String>) {
    let mut found = Vec::new();
    for (file, text) in texts {
        let name = file.strip_prefix(root()).expect("it is below the root");
        let faults = rule(file, text);
        found.extend(
            faults
                .iter()
                .map(|fault| format!("{}: {fault}", name.display())),
        );
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_sentence_is_too_long() {
    hold(&pages(), |_, text| long_sentences(text));
    hold(&sources(), |_, text| long_sentences(text));
}

#[test]
fn every_sentence_names_its_subject() {
    hold(&pages(), |_, text| headless_sentences(text));
    hold(&sources(), |_, text| headless_sentences(text));
}

#[test]
fn words_are_american_and_plain() {
    hold(&pages(), |_, text| retired_words(text));
    hold(&sources(), |_, text| retired_words(text));
}

#[test]
fn every_link_leads_somewhere() {
    hold(&pages(), broken_links);
}

#[test]
fn every_file_that_is_named_exists() {
    hold(&pages(), |_, text| missing_files(text));
}

#[test]
fn short_pages_stay_short() {
    for (page, longest) in LONGEST {
        let lines = read(&root().join(page)).lines().count();
        assert!(lines <= *longest, "{page} has {lines} lines of {longest}");
    }
}

/// The lines of code of each block, without the blank ones and those that readers don't see.
fn lines_of_code(text: &str) -> Vec<usize> {
    let blocks = text.split("```").skip(1).step_by(2);
    let counts = blocks.map(|block| {
        let lines = block.lines().skip(1).filter(|line| !line.trim().is_empty());
        let seen = lines.filter(|line| *line != "#" && !line.starts_with("# "));
        seen.count()
    });
    counts.collect()
}

#[test]
fn recipes_are_short() {
    let cookbook = read(&root().join("src/docs/cookbook.md"));
    let recipes = lines_of_code(&cookbook);
    let headings = anchors(&cookbook).len() - 1;
    assert_eq!(recipes.len(), headings, "each has its block of code");
    for (recipe, lines) in anchors(&cookbook).iter().skip(1).zip(recipes) {
        assert!(lines <= LINES_OF_A_RECIPE, "{recipe} has {lines} lines");
    }
}

/// Each rule sees a page that breaks it, and passes over what only looks so.
#[test]
fn each_rule_can_fail() {
    let long = "one ".repeat(26);
    assert_eq!(long_sentences(&long).len(), 1);
    assert_eq!(long_sentences(&format!("- {long}\n  {long}")).len(), 1);
    let fine = format!(
        "# {long}\n| {long} |\n```text\n{long}\n```\n`{long}`\n\nOne. Two.\n\n{}",
        "one ".repeat(25)
    );
    assert_eq!(long_sentences(&fine), [""; 0]);

    for start in HEADLESS {
        assert_eq!(headless_sentences(&format!("Fine. {start}fails.")).len(), 1);
    }
    assert_eq!(
        headless_sentences("It says so. What fails?\n# What fails"),
        [""; 0]
    );

    assert_eq!(retired_words("It answers.\n| its behaviour |").len(), 2);
    assert_eq!(
        retired_words("It returns. `answers`\n```\nanswers\n```"),
        [""; 0]
    );

    let fence = "    /// ```";
    let source = ["//! What fails.", "// What fails.", "    /// What fails."];
    let source = [&source[..], &[fence, "    /// What fails.", fence]].concat();
    assert_eq!(
        headless_sentences(&doc_comments(&source.join("\n"))).len(),
        2
    );

    let block = "```rust\n# hidden\nshown\n\n#\n#[attribute]\n```\ntext\n```\none\n```";
    assert_eq!(lines_of_code(block), [2, 1]);

    let readme = root().join("README.md");
    let links = "[a](nowhere.md) [b](README.md#nowhere)\n[c]: #nowhere";
    assert_eq!(broken_links(&readme, links).len(), 3);
    let links = "[a](Cargo.toml) [b](https://example.org) `[c](nowhere)`";
    assert_eq!(broken_links(&readme, links), [""; 0]);
    assert_eq!(
        anchors("# A `Title`, here\n## One\n## One"),
        ["a-title-here", "one", "one-1"]
    );

    assert_eq!(missing_files("`tests/nothing.rs`").len(), 1);
    assert_eq!(
        missing_files("`src/lib.rs` `nothing.rs` tests/nothing.rs"),
        [""; 0]
    );
}
