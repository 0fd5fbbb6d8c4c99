//! The file that the archive is written to, and read back from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use crate::quake::Quake;

/// Opens the file at `path`; without a path, a temporary one that leaves nothing behind.
pub fn open(path: Option<&Path>) -> Result<File, String> {
    let temporary = std::env::temp_dir().join(format!("quakes-{}.ndjson", std::process::id()));
    let mut options = File::options();
    options.read(true).write(true);
    match path {
        Some(path) => options.create(true).truncate(true).open(path),
        None => nameless(options.create_new(true), &temporary),
    }
    .map_err(|error| {
        format!(
            "cannot write {}: {error}",
            path.unwrap_or(&temporary).display()
        )
    })
}

/// The name goes at once, and the content with the last handle: so nothing is left even of
/// a run that is killed.
fn nameless(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Reads the archive back: the ids, in the order in which they were written.
pub fn ids(mut file: File) -> io::Result<Vec<String>> {
    // No more than was there to begin with: a device could go on for ever.
    let len = file.metadata()?.len();
    file.rewind()?;
    BufReader::new(file.take(len))
        .lines()
        .map(|line| {
            let quake: Quake = serde_json::from_str(&line?)?;
            Ok(quake.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_archived_is_read_back_and_leaves_no_file_behind() {
        let ours = format!("quakes-{}", std::process::id());
        let mut file = open(None).unwrap();
        for id in ["one", "two"] {
            let line = r#"{"id":"ID","time_ms":0,"mag":null,"place":null,"type":"","net":""}"#;
            writeln!(file, "{}", line.replace("ID", id)).unwrap();
        }
        assert_eq!(ids(file).unwrap(), ["one", "two"]);
        let mut left = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        assert!(!left.any(|entry| entry.file_name().to_string_lossy().starts_with(&ours)));
    }
}
