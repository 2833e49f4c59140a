//! Which modules of a base an adapter stands on, by the rules that PEFT matches names with.

use fancy_regex::Regex;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lora::LoraError;

/// PEFT's word for every linear module but the heads.
pub const ALL_LINEAR: &str = "all-linear";

/// What `targets` of a LoRA adapter says: PEFT's `target_modules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Modules whose path is one of these, or ends in one of them after a dot: `q_proj`, `self_attn.q_proj`,
    /// `model.layers.0.self_attn.q_proj`.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression; [`ALL_LINEAR`] stands for all.
    Pattern(String),
}

impl Targets {
    /// These names.
    pub fn names(names: &[&str]) -> Self {
        Self::Names(names.iter().map(|&name| name.to_owned()).collect())
    }

    /// How each of `paths` is meant, in their order; `known` are the last parts of such paths, and `others` the
    /// paths of modules that PEFT would adapt and this does not.
    pub(super) fn of(
        &self,
        paths: &[String],
        known: &'static [&'static str],
        others: &[&'static str],
    ) -> Result<Vec<Meant>, LoraError> {
        match self {
            Self::Pattern(pattern) if pattern.eq_ignore_ascii_case(ALL_LINEAR) => {
                Ok(vec![Meant::ByRule; paths.len()])
            }
            Self::Pattern(pattern) => {
                let regex = compile("targets", pattern, &format!("^(?:{pattern})$"))?;
                let matches = |path: &str| is_match(&regex, "targets", pattern, path);
                for &path in others {
                    if matches(path)? {
                        return Err(LoraError::Beyond { pattern: pattern.clone(), path });
                    }
                }
                let found = paths
                    .iter()
                    .map(|path| Ok(if matches(path)? { Meant::ByRule } else { Meant::Not }));
                let found = found.collect::<Result<Vec<Meant>, _>>()?;
                if found.contains(&Meant::ByRule) {
                    return Ok(found);
                }
                let example = paths.first().cloned().unwrap_or_default();
                Err(LoraError::NoMatch { field: "targets", pattern: pattern.clone(), example })
            }
            Self::Names(names) => {
                check_names(names, paths, known)?;
                let meant = |path: &String| match names {
                    names if names.contains(path) => Meant::ByPath,
                    names if names.iter().any(|name| ends_in(path, name)) => Meant::ByRule,
                    _ => Meant::Not,
                };
                Ok(paths.iter().map(meant).collect())
            }
        }
    }

    /// The same without names that none of `paths` has, if any of the others is there: PEFT passes over them.
    pub(super) fn fitted(&self, paths: &[String]) -> Self {
        match self {
            Self::Names(names) => {
                let is_met = |name: &&String| paths.iter().any(|path| ends_in(path, name));
                let met: Vec<String> = names.iter().filter(is_met).cloned().collect();
                Self::Names(if met.is_empty() { names.clone() } else { met })
            }
            pattern @ Self::Pattern(_) => pattern.clone(),
        }
    }
}

/// How a module is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// Not at all.
    Not,
    /// By a rule, which holds in the blocks that are adapted.
    ByRule,
    /// By its whole path, whatever blocks are adapted.
    ByPath,
}

fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn check_names(
    names: &[String],
    paths: &[String],
    known: &'static [&'static str],
) -> Result<(), LoraError> {
    if names.is_empty() {
        return Err(LoraError::Targets("is empty; an adapter needs at least one".to_owned()));
    }
    for (at, name) in names.iter().enumerate() {
        if !paths.iter().any(|path| ends_in(path, name)) {
            let near = known.iter().map(|known| (strsim::jaro_winkler(known, name), *known));
            let near = near.filter(|(score, _)| *score > 0.7);
            let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name.to_owned());
            return Err(LoraError::Target { target: name.clone(), nearest, known: known.to_vec() });
        }
        if names[..at].contains(name) {
            return Err(LoraError::Targets(format!("names `{name}` twice")));
        }
    }
    Ok(())
}

/// Whether a pattern of PEFT's `rank_pattern` or `alpha_pattern` matches none of `paths`.
pub(super) fn is_idle(pattern: &str, paths: &[String]) -> bool {
    of_patterns("rank_pattern", [(pattern.to_owned(), ())], paths).is_err()
}

/// The value that a pattern of `patterns` (PEFT's `rank_pattern` or `alpha_pattern`) gives for each of `paths`.
///
/// PEFT takes the first pattern that matches; here two that match one module are refused, as the order of a
/// dictionary is nothing to rest a result on.
pub(super) fn of_patterns<T: Copy>(
    field: &'static str,
    patterns: impl IntoIterator<Item = (String, T)>,
    paths: &[String],
) -> Result<Vec<Option<T>>, LoraError> {
    let mut values: Vec<Option<T>> = vec![None; paths.len()];
    for (pattern, value) in patterns {
        let regex = compile(field, &pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?;
        let mut met = false;
        for (path, slot) in paths.iter().zip(&mut values) {
            if is_match(&regex, field, &pattern, path)? {
                met = true;
                if slot.replace(value).is_some() {
                    return Err(LoraError::TwoMatch { field, path: path.clone() });
                }
            }
        }
        if !met {
            let example = paths.first().cloned().unwrap_or_default();
            return Err(LoraError::NoMatch { field, pattern, example });
        }
    }
    Ok(values)
}

fn compile(field: &'static str, pattern: &str, anchored: &str) -> Result<Regex, LoraError> {
    Regex::new(anchored).map_err(|error| broken(field, pattern, &error))
}

fn is_match(
    regex: &Regex,
    field: &'static str,
    pattern: &str,
    path: &str,
) -> Result<bool, LoraError> {
    regex.is_match(path).map_err(|error| broken(field, pattern, &error))
}

fn broken(field: &'static str, pattern: &str, error: &fancy_regex::Error) -> LoraError {
    LoraError::Regex { field, pattern: pattern.to_owned(), reason: error.to_string() }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Names(names) => names.serialize(to),
            Self::Pattern(pattern) => pattern.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Targets;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of module names, a regular expression or \"all-linear\"")
            }

            fn visit_str<E: de::Error>(self, pattern: &str) -> Result<Targets, E> {
                Ok(Targets::Pattern(pattern.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Targets, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Targets::Names(names))
            }
        }
        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["q_proj", "v_proj", "up_proj"];

    fn paths() -> Vec<String> {
        let of = |layer: usize| {
            ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]
                .map(|part| format!("model.layers.{layer}.{part}"))
        };
        [of(0), of(1), of(11)].concat()
    }

    fn of(targets: &Targets) -> Result<Vec<Meant>, LoraError> {
        targets.of(&paths(), KNOWN, &["lm_head"])
    }

    fn meant(targets: &Targets) -> Vec<usize> {
        let found = of(targets).unwrap();
        (0..9).filter(|&i| found[i] != Meant::Not).collect()
    }

    // What PEFT's `check_target_module_exists` finds for the same names.
    #[test]
    fn names_are_whole_paths_or_what_follows_a_dot() {
        assert_eq!(meant(&Targets::names(&["q_proj", "up_proj"])), [0, 2, 3, 5, 6, 8]);
        assert_eq!(meant(&Targets::names(&["self_attn.v_proj"])), [1, 4, 7]);
        assert_eq!(meant(&Targets::names(&["layers.1.self_attn.v_proj"])), [4], "not in 11");
        assert_eq!(meant(&Targets::names(&["model.layers.0.mlp.up_proj"])), [2]);
        let fault = of(&Targets::names(&["proj"])).unwrap_err().to_string();
        assert!(fault.contains("no module `proj`"), "{fault}");
        let fault = of(&Targets::names(&["q_prj"])).unwrap_err().to_string();
        assert!(fault.contains("did you mean `q_proj`?"), "{fault}");
        assert!(of(&Targets::names(&["q_proj", "q_proj"])).is_err());
        assert!(of(&Targets::names(&[])).is_err());
    }

    #[test]
    fn a_pattern_matches_whole_paths() {
        let pattern = |text: &str| Targets::Pattern(text.to_owned());
        assert_eq!(meant(&pattern(r".*\.(0|1)\..*(q|v)_proj")), [0, 1, 3, 4]);
        assert_eq!(meant(&pattern(r"(?!.*mlp).*_proj")), [0, 1, 3, 4, 6, 7]);
        assert_eq!(meant(&pattern(ALL_LINEAR)).len(), 9);
        assert_eq!(meant(&pattern("q_proj|.*11.*q_proj")), [6], "alternatives are whole, too");
        let fault = |text: &str| of(&pattern(text)).unwrap_err().to_string();
        assert!(fault("q_proj").contains("matches no module"), "a part is no match");
        assert!(fault("(").contains("is no regular expression"));
        assert!(fault(".*").contains("also matches `lm_head`"));
    }

    #[test]
    fn values_by_pattern() {
        let of = |patterns: &[(&str, u32)]| {
            let patterns = patterns.iter().map(|&(pattern, value)| (pattern.to_owned(), value));
            of_patterns("rank_pattern", patterns, &paths())
        };
        let found = of(&[("q_proj", 4), (r"layers\.1\.self_attn\.v_proj", 2)]).unwrap();
        let wanted = [Some(4), None, None, Some(4), Some(2), None, Some(4), None, None];
        assert_eq!(found, wanted);
        let fault = of(&[("q_proj", 4), ("layers.0.*", 2)]).unwrap_err().to_string();
        assert!(fault.contains("two patterns"), "{fault}");
        let fault = of(&[("k_proj", 4)]).unwrap_err().to_string();
        assert!(fault.contains("matches no module"), "{fault}");
    }

    #[test]
    fn both_forms_are_read_and_written() {
        for text in [r#"["q_proj","v_proj"]"#, r#""all-linear""#] {
            let targets: Targets = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&targets).unwrap(), text);
        }
        assert!(serde_json::from_str::<Targets>("3").is_err());
    }
}
