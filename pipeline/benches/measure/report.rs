//! A table in Markdown, with what one must know to read it.

use std::{fmt::Write as _, fs, path::Path, thread};

/// Instructions that decide which kernels can be used, as `/proc/cpuinfo` calls them.
const FLAGS: [&str; 5] = ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"];

/// What a bench found. It names no date, no host and no folder, so that it changes only when the figures do.
pub(crate) struct Report {
    name: &'static str,
    text: String,
}

impl Report {
    /// Begins the report of the bench `name`.
    pub(crate) fn new(name: &'static str, about: &str) -> Self {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        let arguments: Vec<String> = arguments.collect();
        let rest = if arguments.is_empty() { "" } else { " -- " };
        let command = format!("cargo bench --bench {name}{rest}{}", arguments.join(" "));
        let text = format!(
            "# {name}\n\n{about}\n\n    {command}\n\n* {}\n* fedpipe {}\n",
            machine(),
            env!("CARGO_PKG_VERSION")
        );
        Self { name, text }
    }

    /// Adds a fact to the list at the head. All of them come before the first table.
    pub(crate) fn fact(&mut self, fact: &str) {
        writeln!(self.text, "* {fact}").expect("a string takes all text");
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
        self.text.push('\n');
        self.text += &line(&head);
        self.text += &line(&vec!["---".to_owned(); head.len()]);
        for row in rows {
            self.text += &line(row);
        }
    }

    /// Prints the report, and writes it to `benches/results/NAME.md` if `keep` says so.
    #[expect(clippy::print_stdout, reason = "a benchmark prints what it found")]
    pub(crate) fn finish(self, keep: bool) {
        println!("{}", self.text);
        if keep {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
            let file = folder.join(self.name).with_extension("md");
            fs::create_dir_all(&folder)
                .and_then(|()| fs::write(&file, self.text))
                .unwrap_or_else(|error| panic!("`{}` cannot be written: {error}", file.display()));
        }
    }
}

/// The processor, as far as Linux tells.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let has: Vec<&str> = field("flags").unwrap_or_default().split_whitespace().collect();
    let has: Vec<&str> = FLAGS.into_iter().filter(|flag| has.contains(flag)).collect();
    let name = field("model name").unwrap_or("an unnamed processor");
    format!("{name}, {cores} cores, {}", has.join(" "))
}
