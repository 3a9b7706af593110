//! The targets that come with girih, each a TOML file under `ir/targets/`.
//!
//! Adding one is a file there and a line here.

use super::Target;
use super::error::TargetError;

/// Name and text of every built-in target.
const BUILTINS: &[(&str, &str)] = &[
    ("host", include_str!("../../targets/host.toml")),
    ("dojo-d1", include_str!("../../targets/dojo-d1.toml")),
    ("dojo-tile", include_str!("../../targets/dojo-tile.toml")),
    ("dojo-tray", include_str!("../../targets/dojo-tray.toml")),
    ("dojo-exapod", include_str!("../../targets/dojo-exapod.toml")),
    ("wse2", include_str!("../../targets/wse2.toml")),
    ("wse3", include_str!("../../targets/wse3.toml")),
    ("ipu-mk2", include_str!("../../targets/ipu-mk2.toml")),
    ("ipu-bow", include_str!("../../targets/ipu-bow.toml")),
    ("wormhole-n150", include_str!("../../targets/wormhole-n150.toml")),
    ("blackhole-p150", include_str!("../../targets/blackhole-p150.toml")),
    ("a100", include_str!("../../targets/a100.toml")),
    ("h100", include_str!("../../targets/h100.toml")),
];

impl Target {
    /// The built-in target of that name; for a name that is none the error suggests the nearest.
    pub fn builtin(name: &str) -> Result<Target, TargetError> {
        match BUILTINS.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Target::from_toml(text),
            None => Err(TargetError::UnknownTarget {
                name: name.to_string(),
                nearest: nearest(name),
                known: Target::builtin_names().join(", "),
            }),
        }
    }

    /// The names of the built-in targets.
    pub fn builtin_names() -> Vec<&'static str> {
        BUILTINS.iter().map(|(name, _)| *name).collect()
    }

    /// The TOML text of a built-in target as its author wrote it, comments included: what to start a file of one's own from.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTINS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }
}

/// The built-in name with the fewest edits, if those are at most half of it or it contains what was asked.
fn nearest(name: &str) -> Option<&'static str> {
    let asked: Vec<char> = name.to_lowercase().chars().take(64).collect();
    let scored = BUILTINS.iter().map(|(known, _)| (edit_distance(&asked, &known.chars().collect::<Vec<_>>()), *known));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    let part =
        || BUILTINS.iter().map(|(known, _)| *known).find(|known| asked.len() >= 3 && known.contains(&asked.iter().collect::<String>()));
    if distance * 2 <= best.len() { Some(best) } else { part() }
}

/// Levenshtein's distance.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_is_sound_and_round_trips() {
        for name in Target::builtin_names() {
            let target = Target::builtin(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(target.name, name);
            assert_eq!(target.check(), Vec::<String>::new(), "{name}");
            let text = target.to_toml();
            let again = Target::from_toml(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
            assert_eq!(again, target, "{name}");
            assert_eq!(again.to_toml(), text, "{name}");
            assert_eq!(again.digest(), target.digest(), "{name}");
            // Programs carry their target through binary codecs, which cannot skip fields.
            let bytes = postcard::to_stdvec(&target).unwrap();
            assert_eq!(postcard::from_bytes::<Target>(&bytes).unwrap(), target, "{name}");
        }
    }

    #[test]
    fn unknown_names_suggest() {
        let suggestion = |name: &str| match Target::builtin(name) {
            Err(TargetError::UnknownTarget { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(suggestion("dojo-tle"), Some("dojo-tile"));
        assert_eq!(suggestion("WSE2"), Some("wse2"));
        assert_eq!(suggestion("wormhole"), Some("wormhole-n150"));
        assert_eq!(suggestion("tpu"), None);
        assert_eq!(
            Target::builtin("hots").unwrap_err().to_string(),
            "there is no target `hots` (did you mean `host`?); built in are host, dojo-d1, dojo-tile, dojo-tray, dojo-exapod, wse2, wse3, ipu-mk2, ipu-bow, \
             wormhole-n150, blackhole-p150, a100, h100, or give the path of a TOML file"
        );
    }

    #[test]
    fn snapshots_of_show() {
        for name in Target::builtin_names() {
            insta::assert_snapshot!(format!("show_{name}"), Target::builtin(name).unwrap());
        }
    }
}
