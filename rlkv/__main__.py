from rlkv.cli import main

main()
