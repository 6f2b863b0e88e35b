# Completion of backupctl for fish: backupctl completion fish | source, or this file in a folder of $fish_complete_path.
function __backupctl_words
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    $words[1] complete-words -- $words[2..-1] "$word" 2>/dev/null
    if test $status -eq 3
        __fish_complete_path "$word"
    end
end
complete -c backupctl -f -a '(__backupctl_words)'
